package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/runtime/agent"
	"github.com/shiplog/shiplog/runtime/dns"
	"github.com/shiplog/shiplog/runtime/network"
	"github.com/shiplog/shiplog/runtime/policy"
	"github.com/shiplog/shiplog/runtime/proxy"
)

// nodeSpec is what a node leaves its traces on a machine by. It is kept in the data directory, so that `down` finds them all
// whatever flags it is given.
type nodeSpec struct {
	Name        string       `json:"name"`
	Bridge      string       `json:"bridge"`
	PodCIDR     netip.Prefix `json:"podCIDR"`     // of this node
	ClusterCIDR netip.Prefix `json:"clusterCIDR"` // of all pods
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	DNS         netip.Addr   `json:"dns"` // the cluster's name server, as pods know it
	Domain      string       `json:"domain"`
	CgroupRoot  string       `json:"cgroupRoot"`
	ChainPrefix string       `json:"chainPrefix"`
}

// defaultBridge is the bridge of the one node that a machine usually has.
const defaultBridge = "shiplog0"

// makeNodeSpec fills in what follows from the rest. Several nodes on one machine differ in their bridges, and so in the names of
// their iptables chains; clusters differ in their directories, and so in their control groups.
func makeNodeSpec(dataDir string, s nodeSpec) nodeSpec {
	s.ChainPrefix = "SHIPLOG"
	if s.Bridge != defaultBridge {
		sum := sha256.Sum256([]byte(s.Bridge))
		s.ChainPrefix += strings.ToUpper(hex.EncodeToString(sum[:2]))
	}
	sum := sha256.Sum256([]byte(dataDir))
	s.CgroupRoot = "/shiplog-" + hex.EncodeToString(sum[:4])
	return s
}

func nodeSpecFile(dataDir string) string { return filepath.Join(dataDir, nodeDir, "node.json") }

func (s nodeSpec) save(dataDir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	file := nodeSpecFile(dataDir)
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return fmt.Errorf("opening the node's directory: %w", err)
	}
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping the node's settings: %w", err)
	}
	return os.Rename(file+".new", file)
}

// newAgent makes the agent of a node in a data directory.
func newAgent(dataDir string, s nodeSpec, config agent.Config, logger *slog.Logger) (*agent.Agent, error) {
	dir := filepath.Join(dataDir, nodeDir)
	pods, err := network.New(network.Config{
		Bridge: s.Bridge, PodCIDR: s.PodCIDR, ClusterCIDR: s.ClusterCIDR, ServiceCIDR: s.ServiceCIDR,
		StateDir: filepath.Join(dir, "network"), ChainPrefix: s.ChainPrefix, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("making the pod network: %w", err)
	}
	services, err := proxy.New(proxy.Options{ChainPrefix: s.ChainPrefix, LocalnetDevices: []string{s.Bridge}, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("making the service proxy: %w", err)
	}
	names, err := dns.New(dns.Config{
		Addrs: []string{netip.AddrPortFrom(pods.GatewayIP(), 53).String()}, ClusterDomain: s.Domain, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("making the cluster's name server: %w", err)
	}
	rules, err := policy.New(policy.Options{ChainPrefix: s.ChainPrefix, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("making the keeper of network policies: %w", err)
	}
	config.NodeName, config.DataDir, config.Kinds = s.Name, dir, domain.NewSet(domain.Kinds())
	config.Network, config.Proxy, config.DNS, config.Policy = pods, services, names, rules
	config.PodCIDR, config.ClusterCIDR, config.ClusterDomain, config.ClusterDNS = s.PodCIDR, s.ClusterCIDR, s.Domain, s.DNS
	config.CgroupRoot, config.Logger = s.CgroupRoot, logger
	return agent.New(config)
}

// firstNodeRange is the part of all pods' range that the first node takes.
func firstNodeRange(cluster netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(cluster.Addr(), max(cluster.Bits(), 24))
}

// runNode runs the node of this machine beside the control plane, in the same process.
func (cp *controlPlane) runNode(ctx context.Context, group *errgroup.Group) error {
	if os.Geteuid() != 0 {
		return errors.New("running containers needs root: run as root, or use --no-node")
	}
	name, err := nodeName(cp.NodeName)
	if err != nil {
		return err
	}
	cp.NodeName = name
	dnsIP, err := api.ServiceIP(cp.ServiceCIDR.String(), 10)
	if err != nil {
		return err
	}
	resolver, ok := netip.AddrFromSlice(dnsIP.To4())
	if !ok {
		return fmt.Errorf("--service-cidr %s has no tenth IPv4 address", cp.ServiceCIDR)
	}
	spec := makeNodeSpec(cp.dir.Path(), nodeSpec{
		Name: name, Bridge: cp.Bridge, PodCIDR: firstNodeRange(cp.PodCIDR), ClusterCIDR: cp.PodCIDR, ServiceCIDR: cp.ServiceCIDR,
		DNS: resolver, Domain: cp.ClusterDom,
	})
	if err := spec.save(cp.dir.Path()); err != nil {
		return err
	}
	cert, pool, err := cp.nodeCertificate(name)
	if err != nil {
		return err
	}
	node, err := newAgent(cp.dir.Path(), spec, agent.Config{
		Upstream: agent.Upstream{
			Source: nodefeed.NewSource(cp.view, cp.kinds), Bus: cp.server.Bus(), Address: strings.TrimPrefix(cp.server.URL(), "https://"),
		},
		Listen: cp.NodeListen, Cert: cert, ClientCA: pool,
	}, cp.logger)
	if err != nil {
		return err
	}
	group.Go(func() error {
		if err := node.Run(ctx); err != nil {
			return fmt.Errorf("running the node: %w", err)
		}
		return nil
	})
	return nil
}

// nodeCertificate issues what the node's own API serves with: anew at every start, kept in memory alone.
func (cp *controlPlane) nodeCertificate(name string) (*tls.Certificate, *x509.CertPool, error) {
	certPEM, keyPEM, err := cp.pki.Issue(pki.Request{
		Name: "system:node:" + name, Organizations: []string{"system:nodes"}, Server: true,
		Names: []string{name, "localhost"}, IPs: append(hostAddresses(), net.IPv4(127, 0, 0, 1)),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("issuing the node's certificate: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cp.pki.CA())
	return &cert, pool, nil
}
