package inprocess_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/api/inprocess"
)

func request(t *testing.T, ctx context.Context, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://in-process/x?y=1", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequestAndResponse(t *testing.T) {
	tr := &inprocess.Transport{}
	tr.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X", r.RequestURI)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X", "too late")
		_, _ = w.Write(append([]byte("got "), body...))
	}))
	resp, err := tr.RoundTrip(request(t, t.Context(), "this"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "got this" || resp.StatusCode != http.StatusTeapot || resp.Header.Get("X") != "/x?y=1" {
		t.Errorf("got %d %q %v, %v", resp.StatusCode, body, resp.Header, err)
	}
}

func TestAStreamEndsWithItsReader(t *testing.T) {
	ended := make(chan struct{})
	tr := &inprocess.Transport{}
	tr.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		_, _ = w.Write([]byte("one\n"))
		<-r.Context().Done()
	}))
	resp, err := tr.RoundTrip(request(t, t.Context(), ""))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	resp.Body.Close()
	<-ended
}

func TestBeforeThereIsAHandler(t *testing.T) {
	if resp, err := new(inprocess.Transport).RoundTrip(request(t, t.Context(), "")); err == nil {
		resp.Body.Close()
		t.Error("there was an answer")
	}
}

func TestACallerThatGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	tr := &inprocess.Transport{}
	tr.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(begun); <-r.Context().Done() }))
	go func() { <-begun; cancel() }()
	resp, err := tr.RoundTrip(request(t, ctx, ""))
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
