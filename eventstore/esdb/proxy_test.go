package esdb_test

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// fault is what a proxy does to a connection.
type fault int

const (
	none      fault = iota
	stalled         // nothing is read any more; what is on the way stays there
	swallowed       // everything is read, and thrown away: the way to a machine that has gone without a word
	oneWay          // what the server says is thrown away
	slow            // each piece comes a little later
)

// proxy is a way to a server on which things go wrong.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	shut  bool // new connections are refused
	next  fault
	ways  map[*way]struct{}
	total int // connections so far
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, ways: make(map[*way]struct{})}
	go p.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(true)
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// way is one connection through the proxy.
type way struct {
	client, server net.Conn
	mu             sync.Mutex
	fault          fault
	healed         chan struct{} // closed when a stall ends
	once           sync.Once
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		server, err := net.Dial("tcp", p.target)
		if p.shut || err != nil {
			_ = client.Close()
			if err == nil {
				_ = server.Close()
			}
			p.mu.Unlock()
			continue
		}
		w := &way{client: client, server: server, fault: p.next, healed: make(chan struct{})}
		p.ways[w] = struct{}{}
		p.total++
		p.mu.Unlock()
		go w.pipe(server, client, false)
		go w.pipe(client, server, true)
	}
}

func (w *way) pipe(dst, src net.Conn, fromServer bool) {
	defer w.close()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			w.mu.Lock()
			f, healed := w.fault, w.healed
			w.mu.Unlock()
			switch {
			case f == stalled:
				<-healed
			case f == slow:
				<-time.After(2 * time.Millisecond)
			case f == swallowed, f == oneWay && fromServer:
				continue
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *way) close() {
	w.once.Do(func() {
		_ = w.client.Close()
		_ = w.server.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fault != stalled {
			return
		}
		w.fault = none
		close(w.healed)
	})
}

func (w *way) suffer(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.fault == swallowed || w.fault == oneWay:
		return // bytes are lost: it can never be whole again
	case w.fault == stalled && f != stalled:
		close(w.healed)
		w.healed = make(chan struct{})
	}
	w.fault = f
}

// set cuts all connections, and lets new ones through only if not shut.
func (p *proxy) set(shut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = shut
	for w := range p.ways {
		go w.close()
	}
	clear(p.ways)
}

// suffer has all connections of now suffer a fault.
func (p *proxy) suffer(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.ways {
		w.suffer(f)
	}
}

// strike does something at random, and says what.
func (p *proxy) strike(random *rand.Rand) string {
	switch random.IntN(6) {
	case 0:
		p.set(false)
		return "cut"
	case 1:
		p.suffer(stalled)
		return "stalled"
	case 2:
		p.suffer(swallowed)
		return "swallowed"
	case 3:
		p.suffer(oneWay)
		return "one way"
	case 4:
		p.suffer(slow)
		return "slow"
	default:
		p.suffer(none)
		return "healed"
	}
}

// connections is how many there have been.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}
