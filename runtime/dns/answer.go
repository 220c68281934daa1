package dns

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
)

// Reply is the answer to one question.
type Reply struct {
	Mine   bool // the name is the cluster's: the reply is final. Otherwise somebody else has to be asked
	Rcode  int
	Answer []mdns.RR
	Ns     []mdns.RR
	Extra  []mdns.RR
	Chase  string // where an alias leads that this zone cannot follow; empty otherwise
}

// Version is what dns-version.<domain> says: the version of the specification.
const Version = "1.1.0"

// An alias that leads to an alias and so on is followed this far.
const maxAliases = 8

// Answer returns the answer to a question for the cluster domain (such as "cluster.local") in a state, with the default options.
func Answer(domain string, state State, question mdns.Question) Reply {
	b := newBuilder(Config{ClusterDomain: domain}.zoneOptions(), nil)
	b.update(state)
	return b.publish().Answer(question)
}

// Answer returns the zone's answer to a question of the class IN.
func (z *Zone) Answer(q mdns.Question) Reply {
	var aliases []mdns.RR
	name := q.Name
	for {
		r := z.answerOnce(mdns.Question{Name: name, Qtype: q.Qtype, Qclass: q.Qclass})
		if !r.Mine && len(aliases) > 0 {
			return Reply{Mine: true, Answer: aliases, Chase: name}
		}
		alias, ok := asAlias(r.Answer)
		if !ok || q.Qtype == mdns.TypeCNAME || len(aliases) == maxAliases {
			r.Answer = append(aliases, r.Answer...)
			return r
		}
		aliases = append(aliases, alias)
		if slices.ContainsFunc(aliases, func(rr mdns.RR) bool { return strings.EqualFold(rr.Header().Name, alias.Target) }) {
			return Reply{Mine: true, Rcode: mdns.RcodeServerFailure} // the aliases lead in a circle
		}
		name = alias.Target
	}
}

func asAlias(answer []mdns.RR) (*mdns.CNAME, bool) {
	if len(answer) != 1 {
		return nil, false
	}
	alias, ok := answer[0].(*mdns.CNAME)
	return alias, ok
}

func (z *Zone) answerOnce(q mdns.Question) Reply {
	name := strings.ToLower(q.Name)
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	if name == z.domain {
		return z.answerApex(q)
	}
	if rest, ok := strings.CutSuffix(name, "."+z.domain); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		return z.answerBelow(q, labels)
	}
	if addr, ok := reverseAddr(name); ok {
		return z.answerReverse(q, addr)
	}
	return Reply{}
}

func (z *Zone) answerApex(q mdns.Question) Reply {
	switch q.Qtype {
	case mdns.TypeSOA:
		return Reply{Mine: true, Answer: []mdns.RR{z.soa(q.Name)}}
	case mdns.TypeNS:
		server := "ns.dns." + z.domain
		return Reply{
			Mine: true, Answer: []mdns.RR{&mdns.NS{Hdr: z.header(q.Name, mdns.TypeNS), Ns: server}},
			Extra: slices.Concat(z.addresses4and6(server, z.servers, mdns.TypeA), z.addresses4and6(server, z.servers, mdns.TypeAAAA)),
		}
	}
	return z.nothing()
}

// answerBelow answers a name below the domain, by its labels from the last to the first.
func (z *Zone) answerBelow(q mdns.Question, labels []string) Reply {
	switch {
	case labels[0] == "svc":
		return z.answerService(q, labels[1:])
	case labels[0] == "pod":
		return z.answerPod(q, labels[1:])
	case labels[0] == "dns-version" && len(labels) == 1:
		if q.Qtype == mdns.TypeTXT {
			return Reply{Mine: true, Answer: []mdns.RR{&mdns.TXT{Hdr: z.header(q.Name, mdns.TypeTXT), Txt: []string{Version}}}}
		}
		return z.nothing()
	case labels[0] == "dns" && (len(labels) == 1 || len(labels) == 2 && labels[1] == "ns"):
		if len(labels) == 1 {
			return z.nothing()
		}
		return z.found(z.addresses4and6(q.Name, z.servers, q.Qtype))
	}
	return z.noSuchName()
}

// answerService answers [port protocol | endpoint] service namespace, by the labels from the last to the first.
func (z *Zone) answerService(q mdns.Question, labels []string) Reply {
	switch len(labels) {
	case 0:
		return z.nothing()
	case 1:
		if _, ok := z.namespaces.Get(labels[0]); !ok {
			return z.noSuchName()
		}
		return z.nothing()
	}
	s, ok := z.services.Get(labels[0] + "/" + labels[1])
	if !ok {
		return z.noSuchName()
	}
	if s.alias != "" {
		if len(labels) > 2 {
			return z.noSuchName()
		}
		return Reply{Mine: true, Answer: []mdns.RR{&mdns.CNAME{Hdr: z.header(q.Name, mdns.TypeCNAME), Target: s.alias}}}
	}
	switch len(labels) {
	case 2:
		if q.Qtype == mdns.TypeSRV {
			return z.answerPorts(q, s, func(port) bool { return true })
		}
		return z.found(z.addresses4and6(q.Name, s.reachedAt(), q.Qtype))
	case 3:
		if protocol, ok := strings.CutPrefix(labels[2], "_"); ok {
			return z.emptyOrMissing(s.hasPort(func(p port) bool { return p.protocol == protocol && p.name != "" }))
		}
		for _, e := range s.endpoints {
			if e.label == labels[2] {
				if q.Qtype == mdns.TypeSRV {
					one := *s
					one.addrs, one.endpoints = nil, []endpoint{e}
					return z.answerPorts(q, &one, func(port) bool { return true })
				}
				return z.found(z.addresses4and6(q.Name, e.addrs, q.Qtype))
			}
		}
	case 4:
		protocol, ok1 := strings.CutPrefix(labels[2], "_")
		name, ok2 := strings.CutPrefix(labels[3], "_")
		wanted := func(p port) bool { return p.protocol == protocol && strings.EqualFold(p.name, name) }
		if !ok1 || !ok2 || name == "" || !s.hasPort(wanted) {
			return z.noSuchName()
		}
		if q.Qtype != mdns.TypeSRV {
			return z.nothing()
		}
		return z.answerPorts(q, s, wanted)
	}
	return z.noSuchName()
}

// reachedAt returns the addresses that the service's own name stands for.
func (s *service) reachedAt() []netip.Addr {
	if len(s.addrs) > 0 {
		return s.addrs
	}
	var addrs []netip.Addr
	for _, e := range s.endpoints {
		addrs = append(addrs, e.addrs...)
	}
	return addrs
}

func (s *service) hasPort(wanted func(port) bool) bool {
	if len(s.addrs) > 0 {
		return slices.ContainsFunc(s.ports, wanted)
	}
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return slices.ContainsFunc(e.ports, wanted) })
}

// answerPorts answers with an SRV record for each port wanted: of the service, or of each endpoint of a headless one.
func (z *Zone) answerPorts(q mdns.Question, s *service, wanted func(port) bool) Reply {
	r := Reply{Mine: true}
	own := s.name + "." + s.namespace + ".svc." + z.domain
	add := func(target string, addrs []netip.Addr, ports []port) {
		had := len(r.Answer)
		for _, p := range ports {
			if wanted(p) {
				r.Answer = append(r.Answer, &mdns.SRV{Hdr: z.header(q.Name, mdns.TypeSRV), Weight: 100, Port: p.number, Target: target})
			}
		}
		if len(r.Answer) > had {
			r.Extra = append(r.Extra, z.addresses4and6(target, addrs, mdns.TypeA)...)
			r.Extra = append(r.Extra, z.addresses4and6(target, addrs, mdns.TypeAAAA)...)
		}
	}
	if len(s.addrs) > 0 {
		add(own, s.addrs, s.ports)
	} else {
		for _, e := range s.endpoints {
			add(e.label+"."+own, e.addrs, e.ports)
		}
	}
	if len(r.Answer) == 0 {
		return z.nothing()
	}
	// The weights of equals share a hundred, as CoreDNS has it.
	for _, rr := range r.Answer {
		rr.(*mdns.SRV).Weight = uint16(max(1, 100/len(r.Answer)))
	}
	return r
}

func (z *Zone) answerPod(q mdns.Question, labels []string) Reply {
	switch {
	case z.pods == PodsDisabled:
		return z.noSuchName()
	case len(labels) < 2:
		return z.nothing()
	case len(labels) > 2:
		return z.noSuchName()
	}
	addr, ok := undashed(labels[1])
	if !ok {
		return z.noSuchName()
	}
	if z.pods == PodsVerified {
		if _, ok := z.podIPs.Get(labels[0] + "/" + addr.String()); !ok {
			return z.noSuchName()
		}
	}
	return z.found(z.addresses4and6(q.Name, []netip.Addr{addr}, q.Qtype))
}

// answerReverse answers who has an address. Addresses that are nobody's here may be somebody's elsewhere.
func (z *Zone) answerReverse(q mdns.Question, addr netip.Addr) Reply {
	var names []string
	prefix := reverseKey(addr, "")
	z.addresses.Ascend(prefix, func(key string, _ struct{}) bool {
		name, ok := strings.CutPrefix(key, prefix)
		if ok {
			names = append(names, name)
		}
		return ok
	})
	if len(names) == 0 {
		return Reply{}
	}
	if q.Qtype != mdns.TypePTR {
		return z.nothing()
	}
	r := Reply{Mine: true}
	for _, name := range names {
		r.Answer = append(r.Answer, &mdns.PTR{Hdr: z.header(q.Name, mdns.TypePTR), Ptr: name + z.domain})
	}
	return r
}

// reverseAddr returns the address of a name below in-addr.arpa or ip6.arpa, when it is a whole one.
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil && addr.Is4()
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		raw, err := hex.DecodeString(strings.Join(labels, ""))
		if err != nil || len(labels) != 32 {
			return netip.Addr{}, false
		}
		return netip.AddrFromSlice(raw)
	}
	return netip.Addr{}, false
}

// addresses4and6 returns an A or AAAA record, whichever is asked for, for each address of that family.
func (z *Zone) addresses4and6(name string, addrs []netip.Addr, qtype uint16) []mdns.RR {
	var rrs []mdns.RR
	for _, addr := range addrs {
		switch {
		case addr.Is4() && qtype == mdns.TypeA:
			rrs = append(rrs, &mdns.A{Hdr: z.header(name, mdns.TypeA), A: net.IP(addr.AsSlice())})
		case addr.Is6() && qtype == mdns.TypeAAAA:
			rrs = append(rrs, &mdns.AAAA{Hdr: z.header(name, mdns.TypeAAAA), AAAA: net.IP(addr.AsSlice())})
		}
	}
	return rrs
}

func (z *Zone) header(name string, rrtype uint16) mdns.RR_Header {
	return mdns.RR_Header{Name: name, Rrtype: rrtype, Class: mdns.ClassINET, Ttl: z.ttl}
}

func (z *Zone) soa(name string) mdns.RR {
	return &mdns.SOA{
		Hdr: z.header(name, mdns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain, Serial: z.serial,
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.ttl,
	}
}

// found is the answer with the records, or that the name has none of the kind.
func (z *Zone) found(rrs []mdns.RR) Reply {
	if len(rrs) == 0 {
		return z.nothing()
	}
	return Reply{Mine: true, Answer: rrs}
}

func (z *Zone) emptyOrMissing(exists bool) Reply {
	if exists {
		return z.nothing()
	}
	return z.noSuchName()
}

// nothing says that the name exists and has no record of the kind asked for.
func (z *Zone) nothing() Reply { return Reply{Mine: true, Ns: []mdns.RR{z.soa(z.domain)}} }

// noSuchName says that there is no such name, nor one below it.
func (z *Zone) noSuchName() Reply {
	return Reply{Mine: true, Rcode: mdns.RcodeNameError, Ns: []mdns.RR{z.soa(z.domain)}}
}
