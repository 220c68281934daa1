package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/runtime/dns"
	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/network"
	"github.com/shiplog/shiplog/runtime/policy"
	"github.com/shiplog/shiplog/runtime/proxy"
)

// Network gives pods their addresses.
type Network interface {
	Setup(ctx context.Context) error
	// AttachPod is idempotent: a pod that is attached keeps its address.
	AttachPod(ctx context.Context, podUID, netnsPath string) (network.Address, error)
	DetachPod(ctx context.Context, podUID string) error
	Sweep(ctx context.Context, keep map[string]bool) error
	GatewayIP() netip.Addr
	Teardown(ctx context.Context) error
}

// Proxy leads services' addresses to pods.
type Proxy interface {
	Apply(ctx context.Context, state proxy.State) error
	Teardown(ctx context.Context) error
}

// DNS answers pods' questions for names.
type DNS interface {
	Update(state dns.State)
	Run(ctx context.Context) error
}

// Policy keeps network policies: who may speak to the node's pods, and to whom they may.
type Policy interface {
	Apply(ctx context.Context, state policy.State) error
	Teardown(ctx context.Context) error
}

// Upstream is the control plane: what it says, and how it is told.
type Upstream struct {
	Source nodefeed.Source
	Bus    commands.Bus
	// Address is where the API server really listens ("127.0.0.1:6443"): pods reach it through a relay on the node.
	Address string
}

// Config of an agent. Zero values are the defaults in parentheses.
type Config struct {
	NodeName string
	DataDir  string // images, containers, volumes, logs, the copy of what concerns the node
	Upstream Upstream
	Kinds    *domain.Set // how objects are read and written on disk

	Network Network // nil: pods without hostNetwork cannot run
	Proxy   Proxy   // nil: no services
	DNS     DNS     // nil: no cluster DNS
	Policy  Policy  // nil: network policies are not kept

	NodeIP  netip.Addr        // (the address of the default route)
	Labels  map[string]string // of the Node, beside the usual ones
	Taints  []corev1.Taint    // given to the Node at its registration
	PodCIDR netip.Prefix      // of this node, for the proxy
	// ClusterCIDR holds all pods' addresses; may be empty.
	ClusterCIDR netip.Prefix
	MaxPods     int // (110)

	Listen   string // the kubelet API (":10250")
	Cert     *tls.Certificate
	ClientCA *x509.CertPool // who may ask: the API server's certificate authority

	ClusterDomain string     // ("cluster.local")
	ClusterDNS    netip.Addr // what pods' resolv.conf names; none: the node's own resolv.conf is given to pods

	RuntimePath string // ("runc")
	ConmonPath  string // ("conmon")
	NetnsDir    string // ("/run/netns")
	CgroupRoot  string // ("/shiplog")
	PodPids     int64  // processes of one pod (no limit)

	Registry images.Options // mirrors, insecure registries, the node's credentials

	StatusPeriod time.Duration // how often the Node's conditions are renewed when nothing changes (5 min)
	LeasePeriod  time.Duration // (10 s)
	Logger       *slog.Logger  // (slog.Default())
}

func (c *Config) complete() error {
	switch {
	case c.NodeName == "":
		return errors.New("the node has no name")
	case c.DataDir == "":
		return errors.New("the node has no data directory")
	case c.Upstream.Source == nil || c.Upstream.Bus == nil:
		return errors.New("the node has no control plane")
	case c.Kinds == nil:
		return errors.New("the node knows no kinds")
	case c.Cert != nil && c.ClientCA == nil:
		return errors.New("the node's API has a certificate and no authority for its clients")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	c.DataDir = dir
	if c.Listen == "" {
		c.Listen = ":10250"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.StatusPeriod == 0 {
		c.StatusPeriod = 5 * time.Minute
	}
	if c.LeasePeriod == 0 {
		c.LeasePeriod = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if !c.NodeIP.IsValid() {
		if c.NodeIP, err = nodeIP(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) actor() domain.Actor {
	return domain.Actor{User: "system:node:" + c.NodeName, Groups: []string{"system:nodes", "system:authenticated"}, UserAgent: "shiplog-agent"}
}
