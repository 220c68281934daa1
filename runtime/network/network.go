package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// Config says what a node's network looks like. Zero values are the defaults in parentheses.
type Config struct {
	Bridge      string        // the bridge's device name ("shiplog0"); at most 15 bytes
	PodCIDR     netip.Prefix  // this node's pods; IPv4, at least a /30. The first address is the gateway
	ClusterCIDR netip.Prefix  // all nodes' pods: traffic to it is not masqueraded (PodCIDR)
	ServiceCIDR netip.Prefix  // routed to the bridge, so that services answer also on a machine without a default route (no route)
	StateDir    string        // where the addresses are remembered; created when missing
	MTU         int           // of the bridge and the pods' devices, in bytes (that of the default route's device, else 1500)
	ChainPrefix string        // what our iptables chains' names begin with ("SHIPLOG"), so that several nodes can share a machine
	IPTables    string        // the iptables program ("iptables")
	LockWait    time.Duration // how long a command waits for the xtables lock (5 s)
	Logger      *slog.Logger  // (slog.Default())
}

// ErrCIDR says that the pods' addresses cannot be used as configured.
var ErrCIDR = errors.New("unusable pod CIDR")

// Network is the pod network of one node. It is safe for concurrent use.
type Network struct {
	cfg     Config
	gateway netip.Addr
	tables  *xtables.Tool
	log     *slog.Logger

	addresses *addresses

	mu   sync.Mutex // guards pods
	pods map[string]*podLock
}

// New checks the configuration and recovers the addresses in use from StateDir and from the devices that exist; it changes
// nothing. Errors: ErrCIDR, xtables.ErrMissing.
func New(cfg Config) (*Network, error) {
	if cfg.Bridge == "" {
		cfg.Bridge = "shiplog0"
	}
	if len(cfg.Bridge) > 15 || strings.ContainsAny(cfg.Bridge, "/ \t\n") {
		return nil, fmt.Errorf("bridge name %q: a device name has at most 15 bytes and neither slash nor space", cfg.Bridge)
	}
	if cfg.MTU == 0 {
		cfg.MTU = uplinkMTU()
	}
	if cfg.ChainPrefix == "" {
		cfg.ChainPrefix = "SHIPLOG"
	}
	if strings.ContainsFunc(cfg.ChainPrefix, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) {
		return nil, fmt.Errorf("chain prefix %q: only capital letters and digits", cfg.ChainPrefix)
	}
	if longest := len(cfg.ChainPrefix + masqueradeChain); longest > xtables.MaxChainName {
		return nil, fmt.Errorf("chain prefix %q: iptables allows chain names of %d bytes, this makes one of %d", cfg.ChainPrefix, xtables.MaxChainName, longest)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if !cfg.PodCIDR.IsValid() || !cfg.PodCIDR.Addr().Is4() || cfg.PodCIDR.Bits() > 30 {
		return nil, fmt.Errorf("%w: %v is not an IPv4 range of at least four addresses", ErrCIDR, cfg.PodCIDR)
	}
	cfg.PodCIDR = cfg.PodCIDR.Masked()
	if !cfg.ClusterCIDR.IsValid() {
		cfg.ClusterCIDR = cfg.PodCIDR
	}
	cfg.ClusterCIDR = cfg.ClusterCIDR.Masked()
	if cfg.StateDir == "" {
		return nil, errors.New("the network needs a directory for its state")
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the network's state directory: %w", err)
	}
	tables, err := xtables.Open(cfg.IPTables, cfg.LockWait)
	if err != nil {
		return nil, err
	}
	n := &Network{
		cfg: cfg, gateway: cfg.PodCIDR.Addr().Next(), tables: tables, pods: map[string]*podLock{},
		log: cfg.Logger.With("bridge", cfg.Bridge, "iptables", tables.Backend()),
	}
	if n.addresses, err = openAddresses(filepath.Join(cfg.StateDir, "addresses.json"), cfg.PodCIDR); err != nil {
		return nil, err
	}
	ports, err := n.ports()
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if err := n.addresses.adopt(p.pod, p.addr); err != nil {
			// Two pods with one address would be worse than one without: the port is removed with the pod, and until then said.
			n.log.Warn("a pod's device holds an address that the records give to another pod", "pod", p.pod, "address", p.addr, "error", err)
		}
	}
	return n, nil
}

// GatewayIP is the node's own address on the bridge: the pods' default gateway.
func (n *Network) GatewayIP() netip.Addr { return n.gateway }

// Setup makes the bridge with the gateway's address, the kernel settings, and the iptables chains. It repairs what it finds
// half done or damaged and changes nothing that is right, so that it can be called again at any time. Errors: ErrCIDR when the
// pods' range overlaps an address that the machine already has.
func (n *Network) Setup(ctx context.Context) error {
	if err := n.checkOverlap(); err != nil {
		return err
	}
	bridge, err := n.ensureBridge()
	if err != nil {
		return err
	}
	if err := n.ensureKernelSettings(); err != nil {
		return err
	}
	if err := n.ensureServiceRoute(bridge); err != nil {
		return err
	}
	// A bridge that was deleted under the pods loses its ports; they come back with it.
	ports, err := n.ports()
	if err != nil {
		return err
	}
	for _, p := range ports {
		if err := n.connect(p.link, bridge); err != nil {
			return fmt.Errorf("connecting pod %s to the bridge again: %w", p.pod, err)
		}
	}
	if err := n.ensureRules(ctx); err != nil {
		return err
	}
	n.log.Info("pod network is up", "gateway", n.gateway, "podCIDR", n.cfg.PodCIDR, "clusterCIDR", n.cfg.ClusterCIDR)
	return nil
}

func (n *Network) checkOverlap() error {
	links, err := linkList()
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	for _, link := range links {
		if link.Attrs().Name == n.cfg.Bridge {
			continue
		}
		addrs, err := addrList(link)
		if err != nil {
			return fmt.Errorf("listing addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, addr := range addrs {
			ip, ok := netip.AddrFromSlice(addr.IP.To4())
			if !ok {
				continue
			}
			ones, _ := addr.Mask.Size()
			if taken := netip.PrefixFrom(ip, ones); taken.Overlaps(n.cfg.PodCIDR) {
				return fmt.Errorf("%w: %v overlaps %v on device %s; choose another range for the pods", ErrCIDR, n.cfg.PodCIDR, taken, link.Attrs().Name)
			}
		}
	}
	return nil
}

func (n *Network) ensureBridge() (netlink.Link, error) {
	link, err := linkByName(n.cfg.Bridge)
	if err != nil {
		return nil, fmt.Errorf("looking for bridge %s: %w", n.cfg.Bridge, err)
	}
	if link != nil {
		if _, ok := link.(*netlink.Bridge); !ok {
			return nil, fmt.Errorf("device %s exists and is a %s, not a bridge: remove it or choose another bridge name", n.cfg.Bridge, link.Type())
		}
		ours, err := n.isOurs(link)
		if err != nil {
			return nil, err
		}
		if !ours {
			return nil, fmt.Errorf("bridge %s exists and is somebody else's: choose another bridge name", n.cfg.Bridge)
		}
	} else {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.cfg.Bridge
		attrs.MTU = n.cfg.MTU
		// Without an address of its own a bridge takes its lowest port's, and changes it under the pods' feet.
		attrs.HardwareAddr = hardwareAddr(n.gateway)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("creating bridge %s: %w", n.cfg.Bridge, err)
		}
		if link, err = linkByName(n.cfg.Bridge); err != nil || link == nil {
			return nil, fmt.Errorf("finding bridge %s after creating it: %w", n.cfg.Bridge, err)
		}
	}
	if err := n.labelBridge(link); err != nil {
		return nil, err
	}
	if link.Attrs().MTU != n.cfg.MTU {
		if err := netlink.LinkSetMTU(link, n.cfg.MTU); err != nil {
			return nil, fmt.Errorf("setting the MTU of bridge %s to %d: %w", n.cfg.Bridge, n.cfg.MTU, err)
		}
	}
	want := &netlink.Addr{IPNet: &net.IPNet{IP: n.gateway.AsSlice(), Mask: net.CIDRMask(n.cfg.PodCIDR.Bits(), 32)}}
	addrs, err := addrList(link)
	if err != nil {
		return nil, fmt.Errorf("listing addresses of bridge %s: %w", n.cfg.Bridge, err)
	}
	have := false
	for _, addr := range addrs {
		if addr.IP.Equal(want.IP) && addr.Mask.String() == want.Mask.String() {
			have = true
		} else if err := netlink.AddrDel(link, &addr); err != nil {
			return nil, fmt.Errorf("removing the old address %s of bridge %s: %w", addr.IPNet, n.cfg.Bridge, err)
		}
	}
	if !have {
		if err := netlink.AddrAdd(link, want); err != nil {
			return nil, fmt.Errorf("giving bridge %s the address %s: %w", n.cfg.Bridge, want.IPNet, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bringing bridge %s up: %w", n.cfg.Bridge, err)
	}
	return link, nil
}

// isOurs says whether a bridge is one that we made: it says so itself, or it is as empty as one whose maker was killed at once.
func (n *Network) isOurs(link netlink.Link) (bool, error) {
	if _, ok := parseBridgeAlias(link.Attrs().Alias); ok {
		return true, nil
	}
	addrs, err := addrList(link)
	if err != nil {
		return false, fmt.Errorf("listing addresses of bridge %s: %w", link.Attrs().Name, err)
	}
	return link.Type() == "bridge" && link.Attrs().Alias == "" && len(addrs) == 0, nil
}

// uplinkMTU is the MTU of the device that leads to the world, so that pods do not send what it cannot carry.
func uplinkMTU() int {
	const ethernet = 1500
	routes, err := retryDump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return ethernet
	}
	for _, route := range routes {
		if ones := 0; route.Dst != nil {
			if ones, _ = route.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil && link.Attrs().MTU >= 576 && link.Attrs().MTU <= 65535 {
			return link.Attrs().MTU
		}
	}
	return ethernet
}

// ensureServiceRoute gives service addresses a way: the kernel looks for one before iptables rewrites the address, and without
// one it refuses what the node itself sends. It also keeps what is not rewritten from leaving by the default route.
func (n *Network) ensureServiceRoute(bridge netlink.Link) error {
	if !n.cfg.ServiceCIDR.IsValid() || !n.cfg.ServiceCIDR.Addr().Is4() {
		return nil
	}
	cidr := n.cfg.ServiceCIDR.Masked()
	route := &netlink.Route{
		LinkIndex: bridge.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: n.gateway.AsSlice(),
		Dst: &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), 32)},
	}
	err := netlink.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		// Ours from before, or another node's of this machine, which serves as well.
		return nil
	}
	if err != nil {
		return fmt.Errorf("routing service addresses %s to bridge %s: %w", cidr, n.cfg.Bridge, err)
	}
	return nil
}

// Teardown removes everything that Setup and AttachPod made: rules, devices, kernel settings (back to what they were, unless
// another node on this machine needs them), and the record of addresses. It does what it can and returns all errors.
func (n *Network) Teardown(ctx context.Context) error {
	errs := []error{n.removeRules(ctx)}
	ports, err := n.ports()
	errs = append(errs, err)
	for _, p := range ports {
		if err := linkDel(p.link); err != nil {
			errs = append(errs, fmt.Errorf("removing the device of pod %s: %w", p.pod, err))
		}
	}
	bridge, err := linkByName(n.cfg.Bridge)
	errs = append(errs, err)
	if bridge != nil {
		ours, err := n.isOurs(bridge)
		errs = append(errs, err)
		if ours {
			errs = append(errs, n.restoreKernelSettings(bridge))
			if err := linkDel(bridge); err != nil {
				errs = append(errs, fmt.Errorf("removing bridge %s: %w", n.cfg.Bridge, err))
			}
		}
	}
	errs = append(errs, n.addresses.forget())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("taking the pod network down: %w", err)
	}
	n.log.Info("pod network is down")
	return nil
}
