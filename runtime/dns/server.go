package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
)

// udpSize is the largest UDP answer, in bytes: what passes every link without fragments (dnsflagday.net/2020).
const udpSize = 1232

// Config says what the server answers and where. Zero values are the defaults in parentheses.
type Config struct {
	Addrs         []string      // "host:port" to listen on, UDP and TCP
	ClusterDomain string        // ("cluster.local")
	Upstreams     []string      // other name servers, "host" or "host:port" (those of ResolvConf, which is watched)
	ResolvConf    string        // ("/etc/resolv.conf")
	TTL           time.Duration // of cluster names, in whole seconds (5 s)
	PodRecords    PodRecords    // (PodsInsecure)
	Logger        *slog.Logger  // (slog.Default())
}

func (c Config) zoneOptions() zoneOptions {
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.TTL < time.Second {
		c.TTL = 5 * time.Second
	}
	return zoneOptions{domain: mdns.CanonicalName(c.ClusterDomain), ttl: uint32(c.TTL / time.Second), pods: c.PodRecords}
}

// Server is a node's name server. It is safe for concurrent use.
type Server struct {
	cfg   Config
	opts  zoneOptions
	log   *slog.Logger
	zone  atomic.Pointer[Zone] // nil before the first update
	up    *upstreams
	ready chan struct{}

	mu      sync.Mutex // guards what follows
	builder *builder
	bound   []netip.AddrPort
}

// New checks the configuration; Run opens the sockets.
func New(cfg Config) (*Server, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("the name server needs an address to listen on")
	}
	var servers []netip.Addr
	for _, addr := range cfg.Addrs {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("name server address %q: %w", addr, err)
		}
		if !ap.Addr().IsUnspecified() {
			servers = append(servers, ap.Addr())
		}
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	opts := cfg.zoneOptions()
	if _, ok := mdns.IsDomainName(opts.domain); !ok || opts.domain == "." {
		return nil, fmt.Errorf("cluster domain %q is not a domain name", cfg.ClusterDomain)
	}
	upstream := make([]string, len(cfg.Upstreams))
	for i, server := range cfg.Upstreams {
		upstream[i] = server
		if addr, err := netip.ParseAddr(server); err == nil {
			upstream[i] = netip.AddrPortFrom(addr, 53).String()
		} else if _, _, err := net.SplitHostPort(server); err != nil {
			return nil, fmt.Errorf("upstream name server %q: %w", server, err)
		}
	}
	s := &Server{cfg: cfg, opts: opts, log: cfg.Logger, ready: make(chan struct{}), builder: newBuilder(opts, servers)}
	s.up = newUpstreams(upstream, cfg.ResolvConf, s.isOwn)
	return s, nil
}

// Update makes the names stand for what the state says. Questions are answered from the old state until it returns.
func (s *Server) Update(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.builder.update(state) || s.zone.Load() == nil {
		s.zone.Store(s.builder.publish())
	}
}

// Ready is closed when Run listens on all addresses.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addrs returns the addresses on which Run listens.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bound)
}

// isOwn says whether asking the address would be asking ourselves.
func (s *Server) isOwn(addr netip.AddrPort) bool {
	for _, own := range s.Addrs() {
		if own.Port() != addr.Port() {
			continue
		}
		if own.Addr() == addr.Addr() || own.Addr().IsUnspecified() && isLocal(addr.Addr()) {
			return true
		}
	}
	return false
}

func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	locals, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(locals, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == addr
	})
}

// Run listens and answers until the context ends. It returns an error when an address cannot be listened on, or a socket fails.
func (s *Server) Run(ctx context.Context) error {
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, m *mdns.Msg) { s.serve(ctx, w, m) })
	var servers []*mdns.Server
	closeAll := func() {
		for _, server := range servers {
			if server.Listener != nil {
				server.Listener.Close()
			} else {
				server.PacketConn.Close()
			}
		}
	}
	for _, addr := range s.cfg.Addrs {
		l, pc, err := listen(addr)
		if err != nil {
			closeAll()
			return fmt.Errorf("listening for DNS questions: %w", err)
		}
		servers = append(servers,
			&mdns.Server{Listener: l, Handler: handler, ReadTimeout: 5 * time.Second, IdleTimeout: func() time.Duration { return 10 * time.Second }},
			&mdns.Server{PacketConn: pc, Handler: handler, UDPSize: udpSize})
		s.mu.Lock()
		s.bound = append(s.bound, l.Addr().(*net.TCPAddr).AddrPort())
		s.mu.Unlock()
	}
	failed := make(chan error, len(servers))
	var started, running sync.WaitGroup
	for _, server := range servers {
		started.Add(1)
		server.NotifyStartedFunc = started.Done
		running.Go(func() {
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("answering DNS questions: %w", err)
			}
		})
	}
	started.Wait()
	close(s.ready)
	s.log.Info("name server is up", "addresses", s.cfg.Addrs, "domain", s.opts.domain)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for _, server := range servers {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = server.ShutdownContext(stop) // the sockets are closed at once; what is under way gets a second
		cancel()
	}
	running.Wait()
	return err
}

// listen opens a TCP and a UDP socket with one port number, also when the system chooses it.
func listen(addr string) (net.Listener, net.PacketConn, error) {
	const tries = 20
	for try := 1; ; try++ {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc, nil
		}
		l.Close()
		if port := netip.MustParseAddrPort(addr).Port(); port != 0 || try == tries {
			return nil, nil, err
		}
	}
}

func (s *Server) serve(ctx context.Context, w mdns.ResponseWriter, query *mdns.Msg) {
	m := s.respond(ctx, query)
	size := mdns.MaxMsgSize
	if w.LocalAddr().Network() == "udp" {
		size = mdns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = min(max(size, int(opt.UDPSize())), udpSize)
		}
	}
	m.Truncate(size)
	m.Compress = true
	if err := w.WriteMsg(m); err != nil {
		s.log.Debug("a DNS answer was not sent", "to", w.RemoteAddr(), "error", err)
	}
}

// respond returns the whole answer to a query.
func (s *Server) respond(ctx context.Context, query *mdns.Msg) *mdns.Msg {
	m := new(mdns.Msg)
	m.SetReply(query)
	m.RecursionAvailable = true
	opt := query.IsEdns0()
	if opt != nil {
		m.SetEdns0(udpSize, opt.Do())
	}
	switch {
	case opt != nil && opt.Version() != 0:
		m.Rcode = mdns.RcodeBadVers
		return m
	case query.Opcode != mdns.OpcodeQuery:
		m.Rcode = mdns.RcodeNotImplemented
		return m
	case len(query.Question) != 1:
		m.Rcode = mdns.RcodeFormatError
		return m
	}
	q := query.Question[0]
	switch {
	case q.Qclass != mdns.ClassINET, q.Qtype == mdns.TypeAXFR, q.Qtype == mdns.TypeIXFR:
		m.Rcode = mdns.RcodeRefused
		return m
	}
	dnssec := opt != nil && opt.Do()
	zone := s.zone.Load()
	if zone == nil {
		if mdns.IsSubDomain(s.opts.domain, mdns.CanonicalName(q.Name)) {
			// "No such name" would be believed and kept; this is asked again.
			m.Rcode = mdns.RcodeServerFailure
			return m
		}
		return s.pass(ctx, m, q, dnssec, query.CheckingDisabled)
	}
	r := zone.Answer(q)
	if !r.Mine {
		return s.pass(ctx, m, q, dnssec, query.CheckingDisabled)
	}
	m.Authoritative = true
	m.Rcode, m.Ns = r.Rcode, r.Ns
	m.Answer = shuffled(r.Answer)
	m.Extra = append(slices.Clone(r.Extra), m.Extra...)
	if r.Chase != "" {
		s.chase(ctx, m, r.Chase, q.Qtype, dnssec, query.CheckingDisabled)
	}
	return m
}

// pass answers with what another name server says.
func (s *Server) pass(ctx context.Context, m *mdns.Msg, q mdns.Question, dnssec, cd bool) *mdns.Msg {
	got, err := s.up.forward(ctx, q, dnssec, cd)
	if err != nil {
		s.log.Debug("a DNS question found no answer", "name", q.Name, "error", err)
		m.Rcode = mdns.RcodeServerFailure
		return m
	}
	m.Rcode, m.AuthenticatedData = got.Rcode, got.AuthenticatedData
	m.Answer, m.Ns = shuffled(got.Answer), got.Ns
	for _, rr := range got.Extra {
		if rr.Header().Rrtype != mdns.TypeOPT {
			m.Extra = append(m.Extra, rr)
		}
	}
	return m
}

// chase adds what an alias that leads out of the cluster stands for. The alias itself is an answer also when nobody knows.
func (s *Server) chase(ctx context.Context, m *mdns.Msg, name string, qtype uint16, dnssec, cd bool) {
	got, err := s.up.forward(ctx, mdns.Question{Name: name, Qtype: qtype, Qclass: mdns.ClassINET}, dnssec, cd)
	if err != nil {
		s.log.Debug("the name behind an alias found no answer", "name", name, "error", err)
		return
	}
	m.Rcode = got.Rcode
	m.Answer = append(m.Answer, shuffled(got.Answer)...)
	m.Ns = got.Ns
}

// shuffled spreads clients, which take the first address, over all. Aliases keep their place before what they lead to.
func shuffled(rrs []mdns.RR) []mdns.RR {
	var aliases, others []mdns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype == mdns.TypeCNAME {
			aliases = append(aliases, rr)
		} else {
			others = append(others, rr)
		}
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return append(aliases, others...)
}
