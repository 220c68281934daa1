package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	upstreamTimeout = 2 * time.Second  // for one try at one server
	forwardTimeout  = 6 * time.Second  // for all tries; a resolver's own patience is 5 s a try
	lookAgain       = 5 * time.Second  // how often a changed resolv.conf is noticed
	maxCacheTTL     = 30 * time.Second // an answer from outside is not kept longer
	maxCached       = 4096             // answers
	maxForwards     = 512              // questions on their way at the same time
)

var (
	errNoUpstream = errors.New("there is no other name server to ask")
	errBusy       = errors.New("too many questions are on their way to other name servers")
)

// upstreams asks other name servers. Equal questions at the same time are asked once, which also keeps a server that asks us
// back from making a storm.
type upstreams struct {
	fixed  []string // "host:port"
	path   string   // of a resolv.conf, when fixed is empty
	own    func(netip.AddrPort) bool
	flight singleflight.Group
	slots  chan struct{}
	good   atomic.Int64 // the server that answered last

	mu      sync.Mutex // guards what follows
	looked  time.Time
	changed time.Time // of the file
	servers []string

	cache cache
}

func newUpstreams(fixed []string, path string, own func(netip.AddrPort) bool) *upstreams {
	return &upstreams{fixed: fixed, path: path, own: own, slots: make(chan struct{}, maxForwards), cache: cache{limit: maxCached}}
}

// list returns whom to ask: those configured, or those of resolv.conf, without ourselves.
func (u *upstreams) list(now time.Time) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.servers != nil && (len(u.fixed) > 0 || now.Sub(u.looked) < lookAgain) {
		return u.servers
	}
	u.looked = now
	candidates := u.fixed
	if len(candidates) == 0 {
		info, err := os.Stat(u.path)
		if err != nil || u.servers != nil && info.ModTime().Equal(u.changed) {
			return u.servers
		}
		u.changed = info.ModTime()
		conf, err := mdns.ClientConfigFromFile(u.path)
		if err != nil {
			return u.servers
		}
		for _, host := range conf.Servers {
			candidates = append(candidates, net.JoinHostPort(host, conf.Port))
		}
	}
	u.servers = []string{}
	for _, server := range candidates {
		if addr, err := netip.ParseAddrPort(server); err != nil || !u.own(addr) {
			u.servers = append(u.servers, server)
		}
	}
	return u.servers
}

type forwardKey struct {
	name          string
	qtype, qclass uint16
	dnssec, cd    bool
}

// forward returns the answer of another name server. The caller may change it.
func (u *upstreams) forward(ctx context.Context, q mdns.Question, dnssec, cd bool) (*mdns.Msg, error) {
	key := forwardKey{mdns.CanonicalName(q.Name), q.Qtype, q.Qclass, dnssec, cd}
	if m := u.cache.get(key, time.Now()); m != nil {
		return m, nil
	}
	flight := u.flight.DoChan(fmt.Sprint(key), func() (any, error) {
		select {
		case u.slots <- struct{}{}:
			defer func() { <-u.slots }()
		default:
			return nil, errBusy
		}
		// The first asker may leave while others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forwardTimeout)
		defer cancel()
		m, err := u.ask(ctx, q, dnssec, cd)
		if err == nil {
			u.cache.put(key, m, time.Now())
		}
		return m, err
	})
	select {
	case result := <-flight:
		if result.Err != nil {
			return nil, fmt.Errorf("asking for %s: %w", q.Name, result.Err)
		}
		return result.Val.(*mdns.Msg).Copy(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask tries one server after the other, beginning with the one that answered last.
func (u *upstreams) ask(ctx context.Context, q mdns.Question, dnssec, cd bool) (*mdns.Msg, error) {
	servers := u.list(time.Now())
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	var poor *mdns.Msg
	var errs []error
	first := int(u.good.Load())
	for i := range servers {
		at := (first + i) % len(servers)
		m, err := exchange(ctx, servers[at], q, dnssec, cd)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", servers[at], err))
			continue
		}
		if m.Rcode == mdns.RcodeServerFailure || m.Rcode == mdns.RcodeRefused {
			poor = m
			continue
		}
		u.good.Store(int64(at))
		return m, nil
	}
	if poor != nil {
		return poor, nil
	}
	return nil, errors.Join(errs...)
}

func exchange(ctx context.Context, server string, q mdns.Question, dnssec, cd bool) (*mdns.Msg, error) {
	m := &mdns.Msg{MsgHdr: mdns.MsgHdr{Id: mdns.Id(), RecursionDesired: true, CheckingDisabled: cd}, Question: []mdns.Question{q}}
	m.SetEdns0(udpSize, dnssec)
	for _, network := range []string{"udp", "tcp"} {
		client := mdns.Client{Net: network, Timeout: upstreamTimeout, UDPSize: udpSize}
		got, _, err := client.ExchangeContext(ctx, m, server)
		if err != nil {
			return nil, err
		}
		if len(got.Question) != 1 || !sameQuestion(got.Question[0], q) {
			return nil, errors.New("the answer is to another question")
		}
		if !got.Truncated || network == "tcp" {
			return got, nil
		}
	}
	return nil, errors.New("the answer does not fit")
}

func sameQuestion(a, b mdns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && mdns.CanonicalName(a.Name) == mdns.CanonicalName(b.Name)
}
