package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// listeners accepts connections at several addresses as if they were one. Its address is the first one's.
type listeners struct {
	all      []net.Listener
	accepted chan accepted
	closed   chan struct{}
	once     sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// listen listens at an address and at others besides.
func listen(ctx context.Context, address string, others []string) (net.Listener, error) {
	l := &listeners{accepted: make(chan accepted), closed: make(chan struct{})}
	for _, a := range append([]string{address}, others...) {
		one, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
		l.all = append(l.all, one)
	}
	if len(l.all) == 1 {
		return l.all[0], nil
	}
	for _, one := range l.all {
		go l.accept(one)
	}
	return l, nil
}

func (l *listeners) accept(one net.Listener) {
	for {
		conn, err := one.Accept()
		select {
		case l.accepted <- accepted{conn, err}:
		case <-l.closed:
			if conn != nil {
				conn.Close()
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// Accept implements net.Listener.
func (l *listeners) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listeners) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		for _, one := range l.all {
			err = errors.Join(err, one.Close())
		}
	})
	return err
}

// Addr implements net.Listener.
func (l *listeners) Addr() net.Addr { return l.all[0].Addr() }
