// Package feedclient opens a node's feed over HTTPS (nodefeed.Source): one item a line, as nodefeed writes them.
package feedclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// NodesPath begins the paths of the node feed.
const NodesPath = "/shiplog/v1/nodes/"

const (
	maxLine = 32 << 20         // bytes of an item
	silence = 45 * time.Second // without a sign of life for this long a feed is taken for dead
)

// Source opens feeds at an API server.
type Source struct {
	server string
	client *http.Client
	kinds  *domain.Set
}

var _ nodefeed.Source = (*Source)(nil)

// New makes a source for a server ("https://10.0.0.1:6443"). The client proves by its certificate which node it is; it must have no
// timeout of its own.
func New(server string, client *http.Client, kinds *domain.Set) *Source {
	return &Source{server: server, client: client, kinds: kinds}
}

// Open implements nodefeed.Source.
func (s *Source) Open(ctx context.Context, node string, after uint64) (nodefeed.Stream, error) {
	u := s.server + NodesPath + url.PathEscape(node) + "/feed?after=" + strconv.FormatUint(after, 10)
	// The stream outlives this call and ends with Close.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	req, err := http.NewRequestWithContext(life, http.MethodGet, u, nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening the feed of node %s: %w", node, err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening the feed of node %s: %w", node, err)
	}
	stop()
	if resp.StatusCode != http.StatusOK {
		defer cancel()
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, fmt.Errorf("opening the feed of node %s: the server answered %s: %s", node, resp.Status, text)
	}
	st := &stream{body: resp.Body, cancel: cancel, kinds: s.kinds, items: make(chan result, 16)}
	go st.read()
	return st, nil
}

type result struct {
	items []nodefeed.Item
	err   error
}

type stream struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	kinds  *domain.Set
	items  chan result
	once   sync.Once
	failed error
}

// errSilent says that a server gave no sign of life.
var errSilent = errors.New("the server gave no sign of life")

// read turns lines into items; those that arrived together are handed over together.
func (s *stream) read() {
	defer close(s.items)
	var mu sync.Mutex
	silent := false
	watchdog := time.AfterFunc(silence, func() {
		mu.Lock()
		silent = true
		mu.Unlock()
		s.cancel()
	})
	defer watchdog.Stop()
	r := bufio.NewReaderSize(s.body, 64<<10)
	var batch []nodefeed.Item
	for {
		data, err := readLine(r)
		watchdog.Reset(silence)
		if err != nil {
			mu.Lock()
			if silent {
				err = errSilent
			}
			mu.Unlock()
			s.items <- result{batch, fmt.Errorf("reading the feed: %w", err)}
			return
		}
		if len(data) > 0 {
			item, err := nodefeed.UnmarshalItem(s.kinds, data)
			if err != nil {
				s.items <- result{batch, err}
				return
			}
			batch = append(batch, item)
		}
		if len(batch) > 0 && (r.Buffered() == 0 || len(batch) >= 256) {
			s.items <- result{items: batch}
			batch = nil
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		out = append(out, part...)
		switch {
		case err == nil:
			return out[:len(out)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(out) > maxLine:
			return nil, errors.New("a line of the feed is too long")
		}
	}
}

// Next implements nodefeed.Stream.
func (s *stream) Next(ctx context.Context) ([]nodefeed.Item, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	select {
	case r, ok := <-s.items:
		switch {
		case !ok:
			return nil, io.EOF
		case r.err != nil && len(r.items) > 0:
			s.failed = r.err
			return r.items, nil
		}
		return r.items, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements nodefeed.Stream.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.cancel()
		s.body.Close()
		go func() {
			for range s.items { //nolint:revive // lets the reader go
			}
		}()
	})
	return nil
}
