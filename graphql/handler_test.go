package graphql_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql"
	"github.com/shiplog/shiplog/projections"
)

func TestWhatIsRefused(t *testing.T) {
	w := newWorld(t, func(c *graphql.Config) { c.Limits = graphql.Limits{Depth: 8, Cost: 3000, Tokens: 300, Body: 20_000} })
	w.tell()
	deep := strings.Repeat("owner { ", 8) + "id" + strings.Repeat(" }", 8)
	for name, c := range map[string]struct {
		query     string
		variables map[string]any
		code      string
	}{
		"too deep":                 {`{ pod(name: "x") { ` + deep + ` } }`, nil, "QUERY_TOO_DEEP"},
		"too deep by fragments":    {`{ pod(name: "x") { ...a } } fragment a on Pod { ` + deep + ` }`, nil, "QUERY_TOO_DEEP"},
		"too costly":               {`{ pods(first: 1000) { nodes { id name phase } } }`, nil, "QUERY_TOO_COSTLY"},
		"too costly by variables":  {`query ($n: Int) { pods(first: $n) { nodes { id name phase ip } } }`, map[string]any{"n": 1000}, "QUERY_TOO_COSTLY"},
		"too costly by fragments":  {`{ pods(first: 100) { nodes { ...a ...b } } } fragment a on Pod { ...c x: notes { message } } fragment b on Pod { ...c y: notes { message } } fragment c on Pod { containers { name } services { name } z: notes { message } }`, nil, "QUERY_TOO_COSTLY"},
		"a page too long":          {`{ pods(first: 1001) { totalCount } }`, nil, "BAD_REQUEST"},
		"a page of less than none": {`{ pods(first: -1) { totalCount } }`, nil, "BAD_REQUEST"},
		"too many words":           {`{ ` + strings.Repeat("a: head { position } ", 80) + ` }`, nil, "GRAPHQL_PARSE_FAILED"},
		"no such field":            {`{ ship { id } }`, nil, "GRAPHQL_VALIDATION_FAILED"},
		"no query":                 {`{`, nil, "GRAPHQL_PARSE_FAILED"},
		"a change":                 {`mutation { deletePod }`, nil, "GRAPHQL_VALIDATION_FAILED"},
		"the future":               {`{ pods(asOf: 999) { totalCount } }`, nil, "FUTURE"},
		"a time to come":           {`{ pods(asOf: "2030-01-01T00:00:00Z") { totalCount } }`, nil, "FUTURE"},
		"no moment":                {`{ pods(asOf: "tomorrow") { totalCount } }`, nil, "BAD_REQUEST"},
		"a span forwards":          {`{ pods(asOf: "--5m") { totalCount } }`, nil, "BAD_REQUEST"},
		"a bad label selector":     {`{ pods(labelSelector: "a in (") { totalCount } }`, nil, "BAD_REQUEST"},
		"a bad field selector":     {`{ pods(fieldSelector: "status.phase") { totalCount } }`, nil, "BAD_REQUEST"},
		"a bad cursor":             {`{ pods(after: "!") { totalCount } }`, nil, "BAD_REQUEST"},
		"a bad event cursor":       {`{ events(after: "x") { nodes { id } } }`, nil, "BAD_REQUEST"},
		"a bad path":               {`{ namespace(name: "default") { field(path: "a[") } }`, nil, "BAD_REQUEST"},
		"an event of two names":    {`{ event(position: 1, id: "x") { id } }`, nil, "BAD_REQUEST"},
	} {
		if got := w.code(c.query, c.variables); got != c.code {
			t.Errorf("%s: got %s, want %s", name, got, c.code)
		}
	}
	for i := range 150 {
		w.put(pod(fmt.Sprint("many-", i), "other", nil), because{user: "ada"})
	}
	if got := w.code(`{ pods { nodes { id a: phase b: phase c: phase d: phase e: phase f: phase g: phase h: phase i: phase j: phase k: phase l: phase m: phase n: phase o: phase p: phase q: phase r: phase s: phase t: phase u: phase v: phase w: phase x: phase y: phase z: phase containers { name image ready } } } }`, nil); got != "QUERY_TOO_COSTLY" {
		t.Errorf("lists that are longer than was thought: got %s", got)
	}
	if raw := string(w.ask(`{ head { position } }`+strings.Repeat(" ", 30_000), nil)); strings.Contains(raw, `"position"`) {
		t.Errorf("a request that is too long was answered: %s", raw)
	}
	if raw := string(w.ask(`{ pods(first: 100) { nodes { id name phase } } }`, nil)); !strings.Contains(raw, `web-1-b`) {
		t.Errorf("a query within the limits was refused: %s", raw)
	}
}

func TestWithoutAHistory(t *testing.T) {
	w := newWorld(t, func(c *graphql.Config) { c.History = nil })
	w.tell()
	if raw := string(w.ask(`{ head { position historyPosition } pods(asOf: 42) { totalCount } }`, nil)); raw != `{"data":{"head":{"position":42,"historyPosition":null},"pods":{"totalCount":2}}}` {
		t.Errorf("got %s", raw)
	}
	for _, query := range []string{`{ pods(asOf: 41) { totalCount } }`, `{ pods(asOf: "-10m") { totalCount } }`, `{ events { nodes { id } } }`, `{ event(position: 1) { id } }`} {
		if got := w.code(query, nil); got != "UNAVAILABLE" {
			t.Errorf("%s: got %s", query, got)
		}
	}
}

// broken is a history that fails in its own way.
type broken struct {
	projections.History
	fail func()
}

func (b broken) GetAt(context.Context, domain.Ref, uint64) (*projections.Object, error) {
	b.fail()
	return nil, projections.ErrTooOld
}

func TestAHistoryThatFails(t *testing.T) {
	calls := 0
	w := newWorld(t, func(c *graphql.Config) {
		c.History = broken{c.History, func() {
			if calls++; calls == 1 {
				panic("out of order")
			}
		}}
	})
	w.tell()
	const query = `{ pod(name: "web-1-a", asOf: 21) { id } }`
	if got := w.code(query, nil); got != "INTERNAL" {
		t.Errorf("a panic: got %s", got)
	}
	if got := w.code(query, nil); got != "TOO_OLD" {
		t.Errorf("an error: got %s", got)
	}
}

func TestWhoMaySeeWhat(t *testing.T) {
	w := newWorld(t, func(c *graphql.Config) { c.Authorize = onlyNamespace("default") })
	w.tell()
	for query, code := range map[string]string{
		`{ pods { totalCount } }`:                                              "FORBIDDEN",
		`{ pods(namespace: "other") { totalCount } }`:                          "FORBIDDEN",
		`{ pod(namespace: "other", name: "elsewhere") { id } }`:                "FORBIDDEN",
		`{ nodes { totalCount } }`:                                             "FORBIDDEN",
		`{ pod(name: "web-1-a", asOf: 30) { node { name } } }`:                 "FORBIDDEN",
		`{ event(position: 39) { type } }`:                                     "FORBIDDEN",
		`{ diff(kind: "pod", namespace: "other", name: "x", from: 1) { to } }`: "FORBIDDEN",
	} {
		if got := w.code(query, nil); got != code {
			t.Errorf("%s: got %s", query, got)
		}
	}
	if raw := string(w.ask(`{ pods(namespace: "default") { totalCount } deployment(name: "web") { children { totalCount } } events(first: 1) { nodes { ref { id } } } }`, nil)); raw !=
		`{"data":{"pods":{"totalCount":1},"deployment":{"children":{"totalCount":1}},"events":{"nodes":[{"ref":{"id":"pods/default/web-1-a"}}]}}}` {
		t.Errorf("got %s", raw)
	}
}

func TestQueriesByGET(t *testing.T) {
	w := newWorld(t)
	w.tell()
	resp, err := http.Get(w.server.URL + "/graphql?query=" + url.QueryEscape("{ head { position } }"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != `{"data":{"head":{"position":42}}}` {
		t.Errorf("got %s, %v", body, err)
	}
}

// TestThePage: it is there for browsers and needs nothing from elsewhere.
func TestThePage(t *testing.T) {
	w := newWorld(t)
	get := func(path, accept string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL+path, nil)
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
		return resp, string(body)
	}
	for _, path := range []string{"/", "/graphql"} {
		resp, body := get(path, "text/html,application/xhtml+xml")
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, "<title>") || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %s %s", path, resp.Status, body)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: the page may load what it likes: %q", path, policy)
		}
		assets := regexp.MustCompile(`(?:src|href)="([^"#]+)"`).FindAllStringSubmatch(body, -1)
		if len(assets) < 2 {
			t.Errorf("%s: neither script nor style: %s", path, body)
		}
		for _, a := range assets {
			if !strings.HasPrefix(a[1], "/graphql/assets/") {
				t.Errorf("%s: the page needs %s", path, a[1])
				continue
			}
			if resp, text := get(a[1], "*/*"); resp.StatusCode != http.StatusOK || strings.Contains(strings.ReplaceAll(text, "http://www.w3.org/", ""), "http://") || strings.Contains(text, "https://") {
				t.Errorf("%s: %s, or it refers to elsewhere", a[1], resp.Status)
			}
		}
	}
	if resp, _ := get("/nothing", "text/html"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("/nothing: %s", resp.Status)
	}
}

func TestIntrospection(t *testing.T) {
	w := newWorld(t)
	var out struct {
		Data struct {
			Schema struct {
				Types []struct {
					Name, Description string
					Fields            []struct{ Name string }
				}
			} `json:"__schema"`
		}
	}
	if err := json.Unmarshal(w.ask(`{ __schema { types { name description fields { name args { name type { kind ofType { kind ofType { kind ofType { name } } } } } } } } }`, nil), &out); err != nil {
		t.Fatal(err)
	}
	query := map[string]bool{}
	for _, typ := range out.Data.Schema.Types {
		if typ.Name == "Query" {
			for _, f := range typ.Fields {
				query[f.Name] = true
			}
		}
	}
	for _, name := range []string{"head", "pods", "nodes", "deployments", "replicaSets", "services", "events", "object", "objects", "diff"} {
		if !query[name] {
			t.Errorf("the schema has no query %s", name)
		}
	}
}

// TestAQueryIsOfOneMoment: all that one query asks is answered from the same state, whatever happens meanwhile.
func TestAQueryIsOfOneMoment(t *testing.T) {
	w := newWorld(t)
	w.tell()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.bustle(stop) }()
	for range 20 {
		var a struct {
			Data struct {
				Head struct{ Position uint64 }
				A, B struct {
					TotalCount int
					PageInfo   struct{ Position uint64 }
				}
			}
		}
		if err := json.Unmarshal(w.ask(`{ head { position } a: pods { totalCount pageInfo { position } } b: pods(namespace: "other") { totalCount pageInfo { position } } }`, nil), &a); err != nil {
			t.Fatal(err)
		}
		d := a.Data
		if d.Head.Position != d.A.PageInfo.Position || d.A.PageInfo.Position != d.B.PageInfo.Position || d.A.TotalCount != d.B.TotalCount+1 {
			t.Errorf("several moments in one answer: %+v", d)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
