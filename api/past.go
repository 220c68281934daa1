package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// atPrefix begins the paths of the cluster as it was: /at/2026-05-01T10:00:00Z/api/v1/pods, /at/4711/api/v1/pods. A kubeconfig whose
// server ends in /at/<moment> shows the cluster of that moment to any client.
const atPrefix = "/at/"

// withAsOf strips the moment from a path and binds the request to it.
func (s *Server) withAsOf(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, atPrefix)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		moment, path, _ := strings.Cut(rest, "/")
		position, err := s.resolve(r, moment)
		if err != nil {
			responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: "v1"}, w, r)
			return
		}
		ctx := storage.WithMoment(storage.WithAsOf(r.Context(), position), func() (time.Time, error) { return s.timeOf(r.Context(), moment, position) })
		in := r.Clone(ctx)
		in.URL = &url.URL{Path: "/" + path, RawQuery: r.URL.RawQuery}
		if in.URL.RawPath = ""; strings.Contains(r.URL.RawPath, "%") {
			if _, raw, ok := strings.Cut(strings.TrimPrefix(r.URL.RawPath, atPrefix), "/"); ok {
				in.URL.RawPath = "/" + raw
			}
		}
		in.RequestURI = in.URL.RequestURI()
		w.Header().Set("Shiplog-Position", strconv.FormatUint(position, 10))
		next.ServeHTTP(w, in)
	})
}

// resolve finds the position that a moment means.
func (s *Server) resolve(r *http.Request, moment string) (uint64, error) {
	if s.cfg.History == nil {
		return 0, apierrors.NewServiceUnavailable("this server keeps no history that could be read")
	}
	if n, err := strconv.ParseUint(moment, 10, 64); err == nil {
		head, err := s.cfg.Log.Head(r.Context())
		if err != nil {
			return 0, apierrors.NewServiceUnavailable(fmt.Sprintf("the log does not answer: %v", err))
		}
		if n > uint64(head) {
			return 0, apierrors.NewBadRequest(fmt.Sprintf("position %d lies in the future: the log stands at %d", n, head))
		}
		return n, nil
	}
	t, err := time.Parse(time.RFC3339Nano, moment)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%q is neither a position in the log nor a time like 2026-05-01T10:00:00Z", moment))
	}
	if now := s.cfg.Now(); t.After(now) {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s lies in the future: it is %s", moment, now.UTC().Format(time.RFC3339)))
	}
	n, err := s.cfg.History.PositionAt(r.Context(), t)
	switch {
	case errors.Is(err, projections.ErrUnavailable):
		return 0, apierrors.NewServiceUnavailable(fmt.Sprintf("the past cannot be read now: %v", err))
	case errors.Is(err, projections.ErrTooOld):
		return 0, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired,
			Message: fmt.Sprintf("nothing is kept of %s: %v", moment, err),
		}}
	case err != nil:
		return 0, apierrors.NewInternalError(fmt.Errorf("finding the position of %s: %w", moment, err))
	case n == 0:
		return 0, apierrors.NewBadRequest(fmt.Sprintf("there is no past before the log's first event: %s lies before %s", moment, s.beginning(r.Context())))
	}
	return n, nil
}

// timeOf says when a moment was that resolve has found the position of; the zero time when no event is left that would tell.
func (s *Server) timeOf(ctx context.Context, moment string, position uint64) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, moment); err == nil {
		return t, nil
	}
	for r, err := range s.cfg.Log.ReadAll(ctx, eventstore.ReadAll{From: eventstore.Position(position), Direction: eventstore.Backwards, Limit: 1}) {
		if err != nil {
			return time.Time{}, apierrors.NewServiceUnavailable(fmt.Sprintf("the log does not say when position %d was: %v", position, err))
		}
		if e, ok, err := projections.EventOf(r); err == nil && ok {
			return e.Time, nil
		}
		return r.Created, nil // not an event of the cluster, or one that cannot be read: the log's own clock is all there is
	}
	return time.Time{}, nil
}

// beginning says when the log begins, in words.
func (s *Server) beginning(ctx context.Context) string {
	for e, err := range s.cfg.Log.ReadAll(ctx, eventstore.ReadAll{Limit: 1}) {
		if err == nil {
			return e.Created.UTC().Format(time.RFC3339Nano)
		}
	}
	return "it"
}
