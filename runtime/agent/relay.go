package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// relay leads connections to an address of the node on to the API server, wherever that listens: pods reach an API server that
// listens only on the host's loopback. It carries bytes; TLS goes through from end to end.
type relay struct {
	listener net.Listener
	to       string
	log      *slog.Logger

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// newRelay begins to listen on any free port of an address: pods are led there by the rules of the service "kubernetes", and the API
// server may itself have the usual port on all addresses. Run it next.
func newRelay(ctx context.Context, on netip.Addr, to string, log *slog.Logger) (*relay, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(on, 0).String())
	if err != nil {
		return nil, fmt.Errorf("relaying the API server to pods: %w", err)
	}
	return &relay{listener: l, to: to, log: log, conns: map[net.Conn]bool{}}, nil
}

// port is where the relay listens.
func (r *relay) port() int32 {
	if addr, ok := r.listener.Addr().(*net.TCPAddr); ok {
		return int32(addr.Port)
	}
	return 0
}

// run carries connections until the context is done.
func (r *relay) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		_ = r.listener.Close()
		r.mu.Lock()
		for c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
	})
	defer stop()
	for {
		c, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			r.log.Warn("accepting a pod's connection to the API server", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		r.wg.Go(func() { r.carry(ctx, c) })
	}
	r.wg.Wait()
}

func (r *relay) hold(c net.Conn) (release func()) {
	r.mu.Lock()
	r.conns[c] = true
	r.mu.Unlock()
	return func() {
		_ = c.Close()
		r.mu.Lock()
		delete(r.conns, c)
		r.mu.Unlock()
	}
}

func (r *relay) carry(ctx context.Context, in net.Conn) {
	defer r.hold(in)()
	out, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", r.to)
	if err != nil {
		r.log.Debug("a pod cannot reach the API server", "error", err)
		return
	}
	defer r.hold(out)()
	var both sync.WaitGroup
	both.Go(func() { copyHalf(out, in) })
	both.Go(func() { copyHalf(in, out) })
	both.Wait()
}

// copyHalf copies one direction to its end and passes the end on.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if t, ok := to.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}
