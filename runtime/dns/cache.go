package dns

import (
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// cache keeps answers of other name servers for as long as they allow. The zero value with a limit is ready.
type cache struct {
	limit int

	mu      sync.Mutex // guards entries
	entries map[forwardKey]cached
}

type cached struct {
	msg         *mdns.Msg
	from, until time.Time
}

// get returns a copy with the lifetimes that are left, or nil.
func (c *cache) get(key forwardKey, now time.Time) *mdns.Msg {
	c.mu.Lock()
	e, ok := c.entries[key]
	if ok && !now.Before(e.until) {
		delete(c.entries, key)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	m := e.msg.Copy()
	age := uint32(now.Sub(e.from) / time.Second)
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != mdns.TypeOPT {
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

func (c *cache) put(key forwardKey, m *mdns.Msg, now time.Time) {
	ttl, ok := lifetime(m)
	if !ok || ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[forwardKey]cached{}
	}
	if _, replaced := c.entries[key]; !replaced && len(c.entries) >= c.limit {
		c.makeRoom(now)
	}
	c.entries[key] = cached{msg: m.Copy(), from: now, until: now.Add(ttl)}
}

// makeRoom removes what has expired among a few, or any one.
func (c *cache) makeRoom(now time.Time) {
	const few = 16
	looked := 0
	for key, e := range c.entries {
		looked++
		if !now.Before(e.until) || looked == few {
			delete(c.entries, key)
			return
		}
	}
	for key := range c.entries {
		delete(c.entries, key)
		return
	}
}

// lifetime is how long an answer may be kept: that of its shortest-lived record, or for a "no" what the SOA record says.
func lifetime(m *mdns.Msg) (time.Duration, bool) {
	if m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError || m.Truncated {
		return 0, false
	}
	ttl := maxCacheTTL
	shorten := func(seconds uint32) { ttl = min(ttl, time.Duration(seconds)*time.Second) }
	negative := m.Rcode == mdns.RcodeNameError || len(m.Answer) == 0
	hasSOA := false
	for _, rr := range m.Ns {
		if soa, ok := rr.(*mdns.SOA); ok && negative {
			hasSOA = true
			shorten(min(soa.Hdr.Ttl, soa.Minttl))
		}
	}
	for _, rr := range m.Answer {
		shorten(rr.Header().Ttl)
	}
	return ttl, !negative || hasSOA
}
