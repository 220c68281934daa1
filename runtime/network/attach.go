package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The device's name inside the pod, as everywhere in Kubernetes.
const podDevice = "eth0"

// Address is what a pod got.
type Address struct {
	IP, Gateway netip.Addr
}

// podLock orders the calls about one pod; calls about different pods run side by side.
type podLock struct {
	sync.Mutex
	waiting int
}

func (n *Network) lockPod(pod string) (unlock func()) {
	n.mu.Lock()
	l := n.pods[pod]
	if l == nil {
		l = &podLock{}
		n.pods[pod] = l
	}
	l.waiting++
	n.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		n.mu.Lock()
		if l.waiting--; l.waiting == 0 {
			delete(n.pods, pod)
		}
		n.mu.Unlock()
	}
}

// AttachPod connects the network namespace at netnsPath to the bridge: eth0 with the pod's address, the loopback device up, a
// default route. Called again for the same pod it returns the same address, repairing what is missing; called with another
// namespace for the same pod (its sandbox was made anew) it moves the address there. Errors: ErrAddressesExhausted,
// fs.ErrNotExist when there is no such namespace.
func (n *Network) AttachPod(ctx context.Context, podUID, netnsPath string) (Address, error) {
	if err := checkPodUID(podUID); err != nil {
		return Address{}, err
	}
	if err := ctx.Err(); err != nil {
		return Address{}, err
	}
	defer n.lockPod(podUID)()
	addr, fresh, err := n.addresses.allocate(podUID)
	if err != nil {
		return Address{}, fmt.Errorf("attaching pod %s: %w", podUID, err)
	}
	if err := n.attach(podUID, netnsPath, addr); err != nil {
		if fresh {
			err = errors.Join(err, n.addresses.release(podUID))
		}
		return Address{}, fmt.Errorf("attaching pod %s: %w", podUID, err)
	}
	return Address{IP: addr, Gateway: n.gateway}, nil
}

func checkPodUID(pod string) error {
	if pod == "" || len(pod) > 128 || strings.ContainsAny(pod, " \t\n") {
		return fmt.Errorf("pod uid %q: it must have 1 to 128 bytes and no space", pod)
	}
	return nil
}

func (n *Network) attach(pod, netnsPath string, addr netip.Addr) (err error) {
	bridge, err := linkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("looking for bridge %s: %w", n.cfg.Bridge, err)
	}
	if bridge == nil {
		return fmt.Errorf("there is no bridge %s: the network has to be set up first", n.cfg.Bridge)
	}
	ns, err := os.Open(netnsPath)
	if err != nil {
		return fmt.Errorf("opening the pod's network namespace: %w", err)
	}
	defer ns.Close()

	name := portName(n.cfg.Bridge, pod)
	link, err := linkByName(name)
	if err != nil {
		return fmt.Errorf("looking for device %s: %w", name, err)
	}
	if link != nil {
		leadsThere := false
		if err := inNamespace(ns, func() error {
			leadsThere, err = isPeer(link)
			return err
		}); err != nil {
			return err
		}
		if !leadsThere {
			if err := linkDel(link); err != nil {
				return fmt.Errorf("removing device %s of the pod's former namespace: %w", name, err)
			}
			link = nil
		}
	}
	if link == nil {
		if link, err = n.createPair(name, pod, ns, addr); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, linkDel(link))
			}
		}()
	}
	if err := netlink.LinkSetAlias(link, portAlias(n.cfg.Bridge, pod, addr)); err != nil {
		return fmt.Errorf("labelling device %s: %w", name, err)
	}
	if err := inNamespace(ns, func() error { return n.configurePod(addr) }); err != nil {
		return err
	}
	return n.connect(link, bridge)
}

func (n *Network) createPair(name, pod string, ns *os.File, addr netip.Addr) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MTU = n.cfg.MTU
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: podDevice, PeerMTU: uint32(n.cfg.MTU),
		PeerHardwareAddr: hardwareAddr(addr), PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("creating device %s and %s in the pod's namespace: one of them exists and is not ours: %w", name, podDevice, err)
		}
		return nil, fmt.Errorf("creating device %s and %s in the pod's namespace: %w", name, podDevice, err)
	}
	link, err := linkByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding device %s after creating it: %w", name, err)
	}
	if link == nil {
		return nil, fmt.Errorf("device %s of pod %s vanished while it was created: is the pod's namespace gone?", name, pod)
	}
	return link, nil
}

// connect makes the device a port of the bridge and brings it up.
func (n *Network) connect(link, bridge netlink.Link) error {
	name := link.Attrs().Name
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("connecting device %s to bridge %s: %w", name, bridge.Attrs().Name, err)
		}
	}
	// Bridge-netfilter rewrites a pod's packet to its own service on the bridge, and the packet has to leave by the port it came in.
	if err := netlink.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("setting hairpin mode of device %s: %w", name, err)
	}
	if err := disableIPv6(name); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing device %s up: %w", name, err)
	}
	return nil
}

// isPeer says, inside a pod's namespace, whether the device of the node leads here.
func isPeer(host netlink.Link) (bool, error) {
	eth0, err := linkByName(podDevice)
	if err != nil {
		return false, fmt.Errorf("looking for %s in the pod's namespace: %w", podDevice, err)
	}
	if eth0 == nil || eth0.Type() != "veth" {
		return false, nil
	}
	return eth0.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == eth0.Attrs().Index, nil
}

// configurePod runs inside the pod's namespace.
func (n *Network) configurePod(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the pod's loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing the pod's loopback device up: %w", err)
	}
	eth0, err := netlink.LinkByName(podDevice)
	if err != nil {
		return fmt.Errorf("finding the pod's %s: %w", podDevice, err)
	}
	// The gateway is the only way out: nobody may tell the pod another.
	if err := writeSysctl("net/ipv4/conf/"+podDevice+"/accept_redirects", "0"); err != nil {
		return err
	}
	if err := disableIPv6(podDevice); err != nil {
		return err
	}
	// Announce the address when the device comes up, so that no neighbour keeps an old one in its cache.
	if err := writeSysctl("net/ipv4/conf/"+podDevice+"/arp_notify", "1"); err != nil {
		return err
	}
	want := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(n.cfg.PodCIDR.Bits(), 32)}}
	if err := netlink.AddrReplace(eth0, want); err != nil {
		return fmt.Errorf("giving the pod's %s the address %s: %w", podDevice, want.IPNet, err)
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("bringing the pod's %s up: %w", podDevice, err)
	}
	if err := netlink.RouteReplace(&netlink.Route{
		LinkIndex: eth0.Attrs().Index, Gw: n.gateway.AsSlice(),
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}); err != nil {
		return fmt.Errorf("giving the pod its default route by %s: %w", n.gateway, err)
	}
	return nil
}

// DetachPod removes the pod's device and frees its address. That the pod has neither is no error; its namespace may be gone.
func (n *Network) DetachPod(_ context.Context, podUID string) error {
	if err := checkPodUID(podUID); err != nil {
		return err
	}
	defer n.lockPod(podUID)()
	link, err := linkByName(portName(n.cfg.Bridge, podUID))
	if err != nil {
		return fmt.Errorf("detaching pod %s: %w", podUID, err)
	}
	if link != nil {
		if err := linkDel(link); err != nil {
			return fmt.Errorf("detaching pod %s: removing its device: %w", podUID, err)
		}
	}
	// The address is free only after the device is gone, or two pods would answer for it.
	if err := n.addresses.release(podUID); err != nil {
		return fmt.Errorf("detaching pod %s: %w", podUID, err)
	}
	return nil
}

// Sweep detaches every pod that is not in keep: what an agent that was killed, or a reboot, left behind.
func (n *Network) Sweep(ctx context.Context, keep map[string]bool) error {
	ports, err := n.ports()
	if err != nil {
		return fmt.Errorf("sweeping the pod network: %w", err)
	}
	gone := map[string]bool{}
	for _, p := range ports {
		gone[p.pod] = true
	}
	for _, pod := range n.addresses.pods() {
		gone[pod] = true
	}
	var errs []error
	for pod := range gone {
		if keep[pod] {
			continue
		}
		if err := n.DetachPod(ctx, pod); err != nil {
			errs = append(errs, err)
			continue
		}
		n.log.Info("removed what a former pod left in the network", "pod", pod)
	}
	return errors.Join(errs...)
}

// inNamespace runs the function on a thread that entered the namespace. The thread is never unlocked: it ends with its
// goroutine, so that no other goroutine can find itself in the pod, also when entering failed half way.
func inNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering network namespace %s: %w", ns.Name(), err)
			return
		}
		done <- f()
	}()
	return <-done
}
