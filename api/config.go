package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// Config is what a server is made of. Fields marked "must" have no default.
type Config struct {
	// Listen is the address to serve on; port 0 takes any free one. Default 127.0.0.1:6443.
	Listen string
	// AlsoListen are further addresses to serve on, with the same certificate: where pods and nodes reach a server whose users come
	// by a loopback address.
	AlsoListen []string
	// AdvertisePort is the port of Advertise; default that of Listen.
	AdvertisePort int
	// Advertise is the address under which pods and nodes reach the server: the endpoint of the service "kubernetes". Default: the
	// address of Listen or, when that is unspecified, the host's first other address.
	Advertise net.IP
	PKI       *pki.PKI // must; its serving certificate has to name all that the server is called by

	Log     eventstore.Log      // must
	Live    projections.Live    // must; follows the log, run by the caller
	History projections.History // answers reads of the past; nil: there are none
	// Kinds of the cluster, with the keys that open what is sealed; must.
	Kinds *domain.Set
	// Keys seal the payloads of Secrets, and of what else the kinds want sealed; nil: nothing is sealed.
	Keys keystore.Store

	ServiceCIDR   string // default 10.96.0.0/12
	ClusterDomain string // default cluster.local
	NodePortBase  int    // default 30000
	NodePortCount int    // default 2768
	KubeletPort   int    // where node agents serve unless their Node says otherwise; default 10250

	// Feed answers the node feed; nil: there is none.
	Feed nodefeed.Source
	// Extra handlers by path prefix ("/graphql"), authenticated and authorized like every request, as non-resource paths.
	Extra map[string]http.Handler

	// ReadOnly serves a log that takes no writes, for looking back: nothing is made or swept at the start.
	ReadOnly bool

	Logger *slog.Logger     // default slog.Default()
	Now    func() time.Time // default time.Now
}

func (c *Config) complete() error {
	if c.PKI == nil || c.Log == nil || c.Live == nil || c.Kinds == nil {
		return errors.New("PKI, Log, Live and Kinds must be given")
	}
	for _, d := range []struct {
		field *string
		value string
	}{{&c.Listen, "127.0.0.1:6443"}, {&c.ServiceCIDR, "10.96.0.0/12"}, {&c.ClusterDomain, "cluster.local"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&c.NodePortBase, 30000}, {&c.NodePortCount, 2768}, {&c.KubeletPort, 10250}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// serviceNet parses the service CIDR.
func (c *Config) serviceNet() (*net.IPNet, error) {
	_, n, err := net.ParseCIDR(c.ServiceCIDR)
	if err != nil {
		return nil, fmt.Errorf("the service CIDR %q: %w", c.ServiceCIDR, err)
	}
	if ones, bits := n.Mask.Size(); bits-ones < 5 {
		return nil, fmt.Errorf("the service CIDR %s is too small: it must hold at least 32 addresses", c.ServiceCIDR)
	}
	return n, nil
}

// ServiceIP returns the nth address of a service CIDR: the first is the API's own, the tenth the cluster's DNS.
func ServiceIP(cidr string, n int) (net.IP, error) {
	_, ipnet, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil, fmt.Errorf("the service CIDR %q: %w", cidr, err)
	}
	ip := append(net.IP(nil), ipnet.IP...)
	for i := len(ip) - 1; i >= 0 && n > 0; i-- {
		n += int(ip[i])
		ip[i] = byte(n)
		n >>= 8
	}
	return ip, nil
}
