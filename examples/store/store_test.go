package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func do(t *testing.T, server *httptest.Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func TestStoreOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() (*journal, *httptest.Server) {
		j, err := openJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		return j, httptest.NewServer(handler(j))
	}
	j, server := open()
	for _, c := range []struct {
		method, path, body, want string
		code                     int
	}{
		{"GET", "/healthz", "", "ok\n", 200},
		{"GET", "/counters/visits", "", "0\n", 200},
		{"POST", "/counters/visits", "", "1\n", 200},
		{"POST", "/counters/visits", "", "2\n", 200},
		{"POST", "/notes/guests", "  ahoy\nthere ", "noted\n", 200},
		{"POST", "/notes/guests", " ", "a note has 1 to 1024 bytes\n", 400},
		{"POST", "/notes/guests", strings.Repeat("x", 2000), "a note has 1 to 1024 bytes\n", 400},
		{"GET", "/notes/guests", "", "ahoy there\n", 200},
	} {
		if code, got := do(t, server, c.method, c.path, c.body); code != c.code || got != c.want {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, code, got, c.code, c.want)
		}
	}
	server.Close()
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	// Given a process killed while it wrote, when it starts again, then what it had answered is there
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"counted":"vis`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	j, server = open()
	defer server.Close()
	if _, got := do(t, server, "POST", "/counters/visits", ""); got != "3\n" {
		t.Errorf("after a restart the next visit is %q", got)
	}
	if _, got := do(t, server, "GET", "/notes/guests", ""); got != "ahoy there\n" {
		t.Errorf("after a restart the notes are %q", got)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedJournal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "journal"), []byte("{\"counted\":\"a\"}\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), "byte 16") {
		t.Errorf("%v", err)
	}
	if _, err := openJournal(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing directory is opened")
	}
}
