package api

import (
	"bufio"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/shiplog/shiplog/api/access"
	"github.com/shiplog/shiplog/api/feedclient"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// nodesPath begins the paths of the node feed: /shiplog/v1/nodes/<name>/feed?after=<position>.
const nodesPath = feedclient.NodesPath

// feedBeat is how often a feed that has nothing to tell says that it is alive.
const feedBeat = 15 * time.Second

// serveFeed streams what concerns a node, one JSON object a line, to that node alone (and to administrators). An empty line is a
// sign of life.
func (s *Server) serveFeed(w http.ResponseWriter, r *http.Request) {
	node, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, nodesPath), "/feed")
	if !ok || node == "" || strings.Contains(node, "/") {
		http.NotFound(w, r)
		return
	}
	u, _ := request.UserFrom(r.Context())
	if !mayFollow(u, node) {
		fail(w, r, apierrors.NewForbidden(nodesResource, node, errors.New("a node's feed is for that node alone")))
		return
	}
	var after uint64
	if v := r.URL.Query().Get("after"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			fail(w, r, apierrors.NewBadRequest("after must be a position in the log"))
			return
		}
		after = n
	}
	stream, err := s.cfg.Feed.Open(r.Context(), node, after)
	if err != nil {
		fail(w, r, apierrors.NewServiceUnavailable("the feed cannot be opened: "+err.Error()))
		return
	}
	defer stream.Close()
	flusher, ok := w.(http.Flusher)
	if !ok {
		fail(w, r, apierrors.NewInternalError(errors.New("the connection cannot stream")))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	flusher.Flush()
	out := &feedWriter{w: bufio.NewWriter(w), flush: flusher.Flush}
	stop := out.beat(feedBeat)
	defer stop()
	for {
		items, err := stream.Next(r.Context())
		if err != nil {
			if r.Context().Err() == nil && !errors.Is(err, eventstore.ErrClosed) {
				s.cfg.Logger.Warn("a node's feed ended", "node", node, "error", err)
			}
			return
		}
		lines := make([][]byte, 0, len(items))
		for _, item := range items {
			line, err := nodefeed.MarshalItem(item)
			if err != nil {
				s.cfg.Logger.Error("encoding an item of a node's feed", "node", node, "object", item.Ref.String(), "error", err)
				return
			}
			lines = append(lines, line)
		}
		if out.lines(lines) != nil {
			return
		}
	}
}

func mayFollow(u user.Info, node string) bool {
	if u == nil {
		return false
	}
	if name, ok := access.NodeName(u); ok {
		return name == node
	}
	return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}
