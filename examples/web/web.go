package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// patience is how long one way to the store may take.
const patience = 3 * time.Second

// app is the web tier. Its settings come from the environment.
type app struct {
	pod, node, version string
	ways               []way
	client             *http.Client
}

// way is one way to find the store.
type way struct {
	name   string
	lookup func(context.Context) (string, error) // "host:port"
}

func newApp(getenv func(string) string) *app {
	a := &app{
		pod: getenv("POD_NAME"), node: getenv("NODE_NAME"), version: getenv("VERSION"),
		// A new connection each time: the page shall say what works now, not what worked a minute ago.
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	if a.pod == "" {
		a.pod, _ = os.Hostname()
	}
	if a.node == "" {
		a.node = "an unknown node"
	}
	if a.version == "" {
		a.version = "dev"
	}
	host := getenv("STORE_NAME")
	if host == "" {
		host = "store"
	}
	port := getenv("STORE_PORT_BY_NAME")
	if port == "" {
		port = "80"
	}
	a.ways = []way{
		{"environment", func(context.Context) (string, error) {
			host, port := getenv("STORE_SERVICE_HOST"), getenv("STORE_SERVICE_PORT")
			if host == "" || port == "" {
				return "", errors.New("STORE_SERVICE_HOST and STORE_SERVICE_PORT are not set: was the pod started before the service was made?")
			}
			return net.JoinHostPort(host, port), nil
		}},
		{"DNS", func(ctx context.Context) (string, error) {
			addrs, err := net.DefaultResolver.LookupHost(ctx, host)
			if err != nil {
				return "", err
			}
			return net.JoinHostPort(addrs[0], port), nil
		}},
	}
	return a
}

// found is how one way to the store went.
type found struct {
	Way, Address string
	Err          error
}

func (f found) String() string {
	if f.Err != nil {
		return fmt.Sprintf("%s: FAILED: %v", f.Way, f.Err)
	}
	return fmt.Sprintf("%s: ok, %s", f.Way, f.Address)
}

// findStore tries every way, and returns how each went and the address of the first that led to a healthy store.
func (a *app) findStore(ctx context.Context) (tried []found, address string) {
	for _, w := range a.ways {
		f := found{Way: w.name}
		ctx, cancel := context.WithTimeout(ctx, patience)
		if f.Address, f.Err = w.lookup(ctx); f.Err == nil {
			_, f.Err = a.call(ctx, http.MethodGet, f.Address, "/healthz", "")
		}
		cancel()
		if f.Err == nil && address == "" {
			address = f.Address
		}
		tried = append(tried, f)
	}
	return tried, address
}

func (a *app) call(ctx context.Context, method, address, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the store says %s: %s", resp.Status, strings.TrimSpace(string(answer)))
	}
	return strings.TrimSpace(string(answer)), nil
}

// page is what a visitor sees.
type page struct {
	Pod, Node, Version string
	Visits             string
	Notes              []string
	Found              []found
	Err                string
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	// Alive is who answers; ready is who can also reach the store.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		tried, address := a.findStore(r.Context())
		if address == "" {
			http.Error(w, fmt.Sprintf("no way leads to the store: %v", tried), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /{$}", a.showPage)
	mux.HandleFunc("POST /notes", a.takeNote)
	return mux
}

func (a *app) showPage(w http.ResponseWriter, r *http.Request) {
	p := page{Pod: a.pod, Node: a.node, Version: a.version}
	var address string
	p.Found, address = a.findStore(r.Context())
	err := errors.New("no way leads to the store")
	if address != "" {
		var notes string
		if p.Visits, err = a.call(r.Context(), http.MethodPost, address, "/counters/visits", ""); err == nil {
			notes, err = a.call(r.Context(), http.MethodGet, address, "/notes/guests", "")
		}
		if notes != "" {
			p.Notes = strings.Split(notes, "\n")
		}
	}
	code := http.StatusOK
	if err != nil {
		p.Err = err.Error()
		code = http.StatusBadGateway
		slog.Warn("a visitor saw an error", "error", err, "found", p.Found)
	}
	// Browsers ask for HTML, people with curl do not.
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(code)
		_ = asHTML.Execute(w, p)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, p.text())
}

func (p page) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Ahoy from web %s, pod %s on %s.\n", p.Version, p.Pod, p.Node)
	if p.Err != "" {
		fmt.Fprintf(&b, "Something is wrong: %s.\n", p.Err)
	} else {
		fmt.Fprintf(&b, "Visits: %s\n", p.Visits)
	}
	for _, f := range p.Found {
		fmt.Fprintf(&b, "The store by %s\n", f)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "Note: %s\n", note)
	}
	return b.String()
}

func (a *app) takeNote(w http.ResponseWriter, r *http.Request) {
	_, address := a.findStore(r.Context())
	if address == "" {
		http.Error(w, "no way leads to the store", http.StatusBadGateway)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if _, err := a.call(r.Context(), http.MethodPost, address, "/notes/guests", r.FormValue("note")); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

var asHTML = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Two tiers on Shiplog</title>
<style>
  body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; color: #1b2a41; }
  code { background: #eef2f7; padding: 0 .3em; border-radius: .2em; }
  .visits { font-size: 4rem; font-weight: 700; line-height: 1; }
  .bad { color: #b3261e; }
</style>
<h1>Ahoy from web {{.Version}}</h1>
{{if .Err}}<p class="bad">Something is wrong: {{.Err}}.</p>{{else}}<p><span class="visits">{{.Visits}}</span> visits</p>{{end}}
<p>Served by pod <code>{{.Pod}}</code> on <code>{{.Node}}</code>.</p>
<h2>How the store was found</h2>
<ul>{{range .Found}}<li{{if .Err}} class="bad"{{end}}>{{.}}</li>{{end}}</ul>
<h2>Notes</h2>
<ul>{{range .Notes}}<li>{{.}}</li>{{else}}<li>None yet.</li>{{end}}</ul>
<form method="post" action="/notes"><input name="note" maxlength="200" required> <button>Note it</button></form>
</html>
`))
