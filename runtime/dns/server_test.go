package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// outside is a name server that is not ours.
type outside struct {
	addr  string
	asked atomic.Int64
}

func startOutside(t testing.TB, answer func(m *mdns.Msg, tcp bool)) *outside {
	t.Helper()
	l, pc, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{addr: l.Addr().String()}
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		o.asked.Add(1)
		m := new(mdns.Msg)
		m.SetReply(q)
		answer(m, w.LocalAddr().Network() == "tcp")
		_ = w.WriteMsg(m)
	})
	for _, s := range []*mdns.Server{{Listener: l, Handler: handler}, {PacketConn: pc, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return o
}

func record(t testing.TB, text string) mdns.RR {
	t.Helper()
	rr, err := mdns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

func run(t testing.TB, cfg Config) *Server {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.Addrs == nil {
		cfg.Addrs = []string{"127.0.0.1:0"}
	}
	if cfg.Upstreams == nil && cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "none")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func ask(t testing.TB, s *Server, network, name, qtype string, change ...func(*mdns.Msg)) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg)
	m.SetQuestion(name, mdns.StringToType[qtype])
	for _, c := range change {
		c(m)
	}
	client := mdns.Client{Net: network, Timeout: 20 * time.Second, UDPSize: 65535}
	got, _, err := client.Exchange(m, s.Addrs()[0].String())
	if err != nil {
		t.Fatalf("asking %s %s by %s: %v", qtype, name, network, err)
	}
	return got
}

func TestServerAnswersByUDPAndTCP(t *testing.T) {
	s := run(t, Config{})
	s.Update(example())
	for _, network := range []string{"udp", "tcp"} {
		got := ask(t, s, network, "web.default.svc.cluster.local.", "A")
		if len(got.Answer) != 1 || !strings.HasSuffix(got.Answer[0].String(), "\t10.96.0.10") || !got.Authoritative || !got.RecursionAvailable {
			t.Errorf("by %s: %v", network, got)
		}
		if got := ask(t, s, network, "missing.default.svc.cluster.local.", "A"); got.Rcode != mdns.RcodeNameError || len(got.Ns) != 1 {
			t.Errorf("by %s: %v", network, got)
		}
	}
}

func TestBeforeTheFirstStateNothingIsDenied(t *testing.T) {
	s := run(t, Config{})
	if got := ask(t, s, "udp", "web.default.svc.cluster.local.", "A"); got.Rcode != mdns.RcodeServerFailure {
		t.Errorf("before the first state: %v", got)
	}
	s.Update(State{})
	if got := ask(t, s, "udp", "web.default.svc.cluster.local.", "A"); got.Rcode != mdns.RcodeNameError {
		t.Errorf("with an empty state: %v", got)
	}
}

func TestLongAnswers(t *testing.T) {
	db := headless("default", "db")
	var eps []discoveryv1.Endpoint
	for i := range 200 {
		eps = append(eps, at(fmt.Sprintf("10.244.1.%d", i), "", true))
	}
	s := run(t, Config{})
	s.Update(State{Services: []*corev1.Service{db}, Slices: []*discoveryv1.EndpointSlice{endpoints(db, eps...)}})
	for _, c := range []struct {
		given, network string
		size           uint16
		truncated      bool
		limit          int
	}{
		{"no EDNS", "udp", 0, true, 512},
		{"EDNS with a moderate size", "udp", 1000, true, 1000},
		{"EDNS with an exaggerated size", "udp", 65000, true, udpSize},
		{"TCP", "tcp", 0, false, mdns.MaxMsgSize},
	} {
		got := ask(t, s, c.network, "db.default.svc.cluster.local.", "A", func(m *mdns.Msg) {
			if c.size > 0 {
				m.SetEdns0(c.size, false)
			}
		})
		got.Compress = true
		if got.Truncated != c.truncated || got.Len() > c.limit || len(got.Answer) == 0 || !c.truncated && len(got.Answer) != 200 {
			t.Errorf("%s: truncated %v, %d bytes, %d records", c.given, got.Truncated, got.Len(), len(got.Answer))
		}
		if (got.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("%s: EDNS is answered with %v", c.given, got.IsEdns0())
		}
	}
}

func TestAddressesAreSpread(t *testing.T) {
	s := run(t, Config{})
	s.Update(example())
	first := map[string]bool{}
	for range 100 { // the chance that one of three never comes first is 10^-17
		first[ask(t, s, "udp", "db.default.svc.cluster.local.", "A").Answer[0].String()] = true
	}
	if len(first) != 3 {
		t.Errorf("of three addresses these came first: %v", first)
	}
}

func TestUnusualQueries(t *testing.T) {
	s := run(t, Config{})
	s.Update(example())
	for _, c := range []struct {
		given  string
		change func(*mdns.Msg)
		want   int
	}{
		{"an update", func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }, mdns.RcodeNotImplemented},
		{"another class", func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeRefused},
		{"a zone transfer", func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAXFR }, mdns.RcodeRefused},
		{"a later EDNS", func(m *mdns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, mdns.RcodeBadVers},
	} {
		q := new(mdns.Msg)
		q.SetQuestion("web.default.svc.cluster.local.", mdns.TypeA)
		c.change(q)
		if got := s.respond(t.Context(), q); got.Rcode != c.want || len(got.Answer) > 0 {
			t.Errorf("%s: %v", c.given, got)
		}
	}
	if got := s.respond(t.Context(), new(mdns.Msg)); got.Rcode != mdns.RcodeFormatError {
		t.Errorf("no question: %v", got)
	}
}

func TestOtherNamesAreAskedElsewhere(t *testing.T) {
	o := startOutside(t, func(m *mdns.Msg, tcp bool) {
		switch name := m.Question[0].Name; {
		case name == "long.example." && !tcp:
			m.Truncated = true
		case strings.HasSuffix(name, ".missing.example."):
			m.Rcode = mdns.RcodeNameError
			m.Ns = []mdns.RR{record(t, "example. 60 IN SOA a. b. 1 2 3 4 60")}
		default:
			m.Answer = []mdns.RR{record(t, name+" 60 IN A 203.0.113.1")}
		}
	})
	s := run(t, Config{Upstreams: []string{o.addr}})
	s.Update(example())
	got := ask(t, s, "udp", "www.example.", "A")
	if len(got.Answer) != 1 || got.Authoritative {
		t.Fatalf("got %v", got)
	}
	if got := ask(t, s, "udp", "WWW.example.", "A"); len(got.Answer) != 1 || o.asked.Load() != 1 {
		t.Errorf("asked again, the other server was asked %d times: %v", o.asked.Load(), got)
	}
	if got := ask(t, s, "udp", "a.missing.example.", "A"); got.Rcode != mdns.RcodeNameError {
		t.Errorf("got %v", got)
	}
	if got := ask(t, s, "udp", "long.example.", "A"); len(got.Answer) != 1 {
		t.Errorf("an answer that needs TCP: %v", got)
	}
	// An alias that leads out of the cluster is followed there
	got = ask(t, s, "udp", "out.default.svc.cluster.local.", "A")
	if len(got.Answer) != 2 || got.Answer[0].Header().Rrtype != mdns.TypeCNAME || got.Answer[1].Header().Name != "example.com." {
		t.Errorf("got %v", got)
	}
	// Reverse names of nobody here are somebody else's
	if got := ask(t, s, "udp", "1.113.0.203.in-addr.arpa.", "PTR"); got.Rcode != mdns.RcodeSuccess || o.asked.Load() < 5 {
		t.Errorf("got %v", got)
	}
}

func TestAFailingServerIsPassedOver(t *testing.T) {
	bad := startOutside(t, func(m *mdns.Msg, _ bool) { m.Rcode = mdns.RcodeServerFailure })
	good := startOutside(t, func(m *mdns.Msg, _ bool) {
		m.Answer = []mdns.RR{record(t, m.Question[0].Name+" 60 IN A 203.0.113.1")}
	})
	s := run(t, Config{Upstreams: []string{bad.addr, good.addr}})
	for i := range 3 {
		if got := ask(t, s, "udp", fmt.Sprintf("n%d.example.", i), "A"); len(got.Answer) != 1 {
			t.Errorf("got %v", got)
		}
	}
	if bad.asked.Load() != 1 {
		t.Errorf("the failing server was asked %d times, the good one is remembered", bad.asked.Load())
	}
	// With nobody but the failing one, its answer is passed on
	s = run(t, Config{Upstreams: []string{bad.addr}})
	if got := ask(t, s, "udp", "n.example.", "A"); got.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", got)
	}
	// With nobody at all too
	if got := ask(t, run(t, Config{}), "udp", "n.example.", "A"); got.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", got)
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	u := newUpstreams(nil, path, func(ap netip.AddrPort) bool { return ap == netip.MustParseAddrPort("10.244.0.1:53") })
	write := func(text string, age time.Duration) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if got := u.list(now); len(got) > 0 {
		t.Errorf("without a file: %v", got)
	}
	// Given a file that names ourselves too, which would be asking in a circle
	write("nameserver 10.244.0.1\nnameserver 192.0.2.53\n", time.Hour)
	if got := fmt.Sprint(u.list(now)); got != "[192.0.2.53:53]" {
		t.Errorf("got %s", got)
	}
	write("nameserver 192.0.2.54\n", time.Minute)
	if got := fmt.Sprint(u.list(now.Add(lookAgain / 2))); got != "[192.0.2.53:53]" {
		t.Errorf("the file was read again at once: %s", got)
	}
	if got := fmt.Sprint(u.list(now.Add(lookAgain))); got != "[192.0.2.54:53]" {
		t.Errorf("a changed file was not read: %s", got)
	}
}

func TestAskingInACircleEnds(t *testing.T) {
	// Given a server outside that knows nothing better than to ask us
	var us atomic.Pointer[Server]
	o := startOutside(t, func(m *mdns.Msg, _ bool) {
		got := us.Load().respond(context.Background(), &mdns.Msg{MsgHdr: mdns.MsgHdr{Opcode: mdns.OpcodeQuery}, Question: m.Question})
		m.Rcode = got.Rcode
	})
	s := run(t, Config{Upstreams: []string{o.addr}})
	us.Store(s)
	if got := ask(t, s, "udp", "circle.example.", "A"); got.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", got)
	}
	if n := o.asked.Load(); n != 1 {
		t.Errorf("one question made %d", n)
	}
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cache{limit: 3}
		key := func(name string) forwardKey { return forwardKey{name: name, qtype: mdns.TypeA} }
		put := func(name string, rcode int, records ...string) {
			m := &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: rcode}}
			for _, r := range records {
				if rr := record(t, r); rr.Header().Rrtype == mdns.TypeSOA {
					m.Ns = append(m.Ns, rr)
				} else {
					m.Answer = append(m.Answer, rr)
				}
			}
			c.put(key(name), m, time.Now())
		}
		put("short", mdns.RcodeSuccess, "a. 10 IN A 1.2.3.4", "a. 20 IN A 1.2.3.5")
		put("long", mdns.RcodeSuccess, "a. 9999 IN A 1.2.3.4")
		put("no", mdns.RcodeNameError, "a. 300 IN SOA a. b. 1 2 3 4 7")
		time.Sleep(5 * time.Second)
		if m := c.get(key("short"), time.Now()); m == nil || m.Answer[0].Header().Ttl != 5 {
			t.Errorf("after 5 of 10 seconds: %v", m)
		}
		if m := c.get(key("no"), time.Now()); m == nil || m.Rcode != mdns.RcodeNameError {
			t.Errorf("after 5 of 7 seconds: %v", m)
		}
		time.Sleep(5 * time.Second)
		if c.get(key("short"), time.Now()) != nil || c.get(key("no"), time.Now()) != nil {
			t.Error("answers outlived their time")
		}
		time.Sleep(20 * time.Second)
		if c.get(key("long"), time.Now()) != nil {
			t.Error("an answer was kept longer than allowed")
		}
		put("failed", mdns.RcodeServerFailure)
		put("no without SOA", mdns.RcodeNameError)
		put("now only", mdns.RcodeSuccess, "a. 0 IN A 1.2.3.4")
		if len(c.entries) > 0 {
			t.Errorf("kept %v", c.entries)
		}
		for i := range 10 {
			put(fmt.Sprint(i), mdns.RcodeSuccess, "a. 10 IN A 1.2.3.4")
		}
		if len(c.entries) != 3 {
			t.Errorf("a cache for three holds %d", len(c.entries))
		}
	})
}

func TestQuestionsDuringUpdates(t *testing.T) {
	s := run(t, Config{})
	even, odd := example(), example()
	odd.Services = odd.Services[1:]
	s.Update(even)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.Update([]State{even, odd}[i%2])
			}
		}
	})
	q := new(mdns.Msg)
	q.SetQuestion("db.default.svc.cluster.local.", mdns.TypeA)
	for range 2000 {
		if got := s.respond(t.Context(), q); len(got.Answer) != 3 {
			t.Fatalf("got %v", got)
		}
	}
	close(stop)
	wg.Wait()
}

func TestUnusableConfigurations(t *testing.T) {
	for _, c := range []struct {
		given string
		cfg   Config
		want  string
	}{
		{"no address", Config{}, "address"},
		{"an address without port", Config{Addrs: []string{"10.0.0.1"}}, "10.0.0.1"},
		{"an upstream that is a name", Config{Addrs: []string{"127.0.0.1:0"}, Upstreams: []string{"dns"}}, "dns"},
		{"a domain that is none", Config{Addrs: []string{"127.0.0.1:0"}, ClusterDomain: "a..b"}, "a..b"},
	} {
		if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.given, err)
		}
	}
	s := run(t, Config{})
	again, err := New(Config{Addrs: []string{s.Addrs()[0].String()}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); err == nil || !strings.Contains(err.Error(), s.Addrs()[0].String()) {
		t.Errorf("an address in use: %v", err)
	}
}
