package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// fakeStore is the store as the web tier knows it.
func fakeStore(t *testing.T) *httptest.Server {
	var mu sync.Mutex
	visits, notes := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Method + " " + r.URL.Path {
		case "GET /healthz":
		case "POST /counters/visits":
			visits++
			fmt.Fprintln(w, visits)
		case "GET /notes/guests":
			fmt.Fprint(w, notes)
		case "POST /notes/guests":
			body, _ := io.ReadAll(r.Body)
			notes += string(body) + "\n"
		default:
			http.Error(w, "what?", http.StatusTeapot)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func front(t *testing.T, env map[string]string, byDNS func() (string, error)) *httptest.Server {
	a := newApp(func(name string) string { return env[name] })
	a.ways[1].lookup = func(context.Context) (string, error) { return byDNS() }
	server := httptest.NewServer(a.handler())
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, url, accept string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPage(t *testing.T) {
	store := fakeStore(t)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(store.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"POD_NAME": "web-1", "NODE_NAME": "n1", "VERSION": "1.0", "STORE_SERVICE_HOST": host, "STORE_SERVICE_PORT": port}
	web := front(t, env, func() (string, error) { return "", errors.New("no such host") })

	want := "Ahoy from web 1.0, pod web-1 on n1.\nVisits: 1\nThe store by environment: ok, " + host + ":" + port + "\nThe store by DNS: FAILED: no such host\n"
	if code, got := get(t, web.URL, "*/*"); code != 200 || got != want {
		t.Errorf("got %d %q, want %q", code, got, want)
	}
	resp, err := http.PostForm(web.URL+"/notes", url.Values{"note": {"<b>ahoy</b>"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	code, got := get(t, web.URL, "text/html")
	if code != 200 || !strings.Contains(got, "&lt;b&gt;ahoy&lt;/b&gt;") || !strings.Contains(got, `<li class="bad">DNS: FAILED`) {
		t.Errorf("got %d %s", code, got)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, got := get(t, web.URL+path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, got)
		}
	}
}

func TestTheOtherWay(t *testing.T) {
	store := fakeStore(t)
	web := front(t, nil, func() (string, error) { return strings.TrimPrefix(store.URL, "http://"), nil })
	code, got := get(t, web.URL, "")
	if code != 200 || !strings.Contains(got, "environment: FAILED: STORE_SERVICE_HOST") || !strings.Contains(got, "DNS: ok") {
		t.Errorf("got %d %s", code, got)
	}
}

func TestWithoutStore(t *testing.T) {
	web := front(t, nil, func() (string, error) { return "", errors.New("no such host") })
	if code, got := get(t, web.URL, ""); code != http.StatusBadGateway || !strings.Contains(got, "no way leads to the store") {
		t.Errorf("got %d %s", code, got)
	}
	if code, _ := get(t, web.URL+"/readyz", ""); code != http.StatusServiceUnavailable {
		t.Errorf("ready: %d", code)
	}
	if code, _ := get(t, web.URL+"/healthz", ""); code != http.StatusOK {
		t.Errorf("alive: %d", code)
	}
}
