package sim

import (
	"fmt"
	"net/netip"
)

// addresses gives out the addresses of a prefix, each to one owner at a time.
type addresses struct {
	prefix netip.Prefix
	next   netip.Addr
	taken  map[netip.Addr]struct{}
}

func newAddresses(prefix netip.Prefix) *addresses {
	return &addresses{prefix: prefix.Masked(), next: prefix.Masked().Addr().Next(), taken: map[netip.Addr]struct{}{}}
}

// take gives out an address that nobody has; addresses that were given back come last.
func (a *addresses) take() (string, error) {
	first := a.next
	for {
		ip := a.next
		a.next = ip.Next()
		if !a.prefix.Contains(a.next) {
			a.next = a.prefix.Addr().Next()
		}
		if _, ok := a.taken[ip]; !ok {
			a.taken[ip] = struct{}{}
			return ip.String(), nil
		}
		if a.next == first {
			return "", fmt.Errorf("all %d addresses of %s are taken", len(a.taken), a.prefix)
		}
	}
}

// reserve takes note of an address that somebody has already. An address of another prefix is none of ours.
func (a *addresses) reserve(s string) {
	if ip, err := netip.ParseAddr(s); err == nil && a.prefix.Contains(ip) {
		a.taken[ip] = struct{}{}
	}
}

func (a *addresses) release(s string) {
	if ip, err := netip.ParseAddr(s); err == nil {
		delete(a.taken, ip)
	}
}

// nth is the n-th address of a prefix, from 0, the network's own left out.
func nth(prefix netip.Prefix, n int) (string, error) {
	b := prefix.Masked().Addr().As16()
	for i, carry := 15, n+1; i >= 0 && carry > 0; i-- {
		carry += int(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	ip := netip.AddrFrom16(b)
	if prefix.Addr().Is4() {
		ip = ip.Unmap()
	}
	if !prefix.Contains(ip) {
		return "", fmt.Errorf("%s has no room for node %d", prefix, n)
	}
	return ip.String(), nil
}
