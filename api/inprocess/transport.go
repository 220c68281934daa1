// Package inprocess lets an HTTP client reach a handler of its own process without a network: for the libraries that insist on a
// client of the API that they are part of.
package inprocess

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// Transport is an http.RoundTripper that calls a handler. The handler may be given later than the transport is handed out.
type Transport struct{ handler atomic.Pointer[http.Handler] }

var errNotServing = errors.New("the API server of this process is not serving yet")

// Serve gives the transport its handler.
func (t *Transport) Serve(h http.Handler) { t.handler.Store(&h) }

// RoundTrip implements http.RoundTripper. The response's body is what the handler writes, as it writes it; closing the body ends the
// request's context.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	h := t.handler.Load()
	if h == nil {
		return nil, errNotServing
	}
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(ctx)
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Host = req.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	r, w := io.Pipe()
	out := &writer{header: http.Header{}, pipe: w, begun: make(chan struct{})}
	go func() {
		defer func() {
			err := error(nil)
			if p := recover(); p != nil {
				err = http.ErrAbortHandler
			}
			out.begin(http.StatusOK)
			w.CloseWithError(err)
			cancel()
		}()
		(*h).ServeHTTP(out, in)
	}()
	select {
	case <-out.begun:
	case <-req.Context().Done():
		cancel()
		r.CloseWithError(req.Context().Err())
		return nil, req.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(out.code), StatusCode: out.code, Proto: "HTTP/2.0", ProtoMajor: 2, Header: out.sent,
		Body: &body{PipeReader: r, cancel: cancel}, ContentLength: -1, Request: req,
	}, nil
}

type body struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *body) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// writer is the handler's side of a response.
type writer struct {
	header, sent http.Header
	pipe         *io.PipeWriter
	once         sync.Once
	begun        chan struct{}
	code         int
}

func (w *writer) Header() http.Header { return w.header }
func (w *writer) Flush()              { w.begin(http.StatusOK) }
func (w *writer) WriteHeader(code int) {
	if code >= http.StatusOK {
		w.begin(code)
	}
}

func (w *writer) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.pipe.Write(b)
}

func (w *writer) begin(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}
