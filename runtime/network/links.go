package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// A dump that other changes interrupted is incomplete; this many tries in a row were never seen to fail on a quiet machine.
const dumpTries = 20

func retryDump[T any](dump func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		got, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == dumpTries {
			return got, err
		}
	}
}

func linkList() ([]netlink.Link, error) { return retryDump(netlink.LinkList) }

func addrList(link netlink.Link) ([]netlink.Addr, error) {
	return retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
}

// linkByName returns nil when there is no such device.
func linkByName(name string) (netlink.Link, error) {
	link, err := retryDump(func() (netlink.Link, error) { return netlink.LinkByName(name) })
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	return link, err
}

// linkDel deletes a device; that it went away meanwhile (with its pod's namespace) is no error.
func linkDel(link netlink.Link) error {
	err := netlink.LinkDel(link)
	if err == nil {
		return nil
	}
	if again, lookErr := linkByName(link.Attrs().Name); lookErr == nil && again == nil {
		return nil
	}
	return err
}

// hardwareAddr derives a device's Ethernet address from its IP address: whoever has the one in its cache has the right other,
// also when an address passes to another pod.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// portName names the node's end of a pod's veth pair. Several nodes may share a machine, so the bridge is part of it.
func portName(bridge, pod string) string {
	sum := sha256.Sum256([]byte(bridge + "\x00" + pod))
	return "slg" + hex.EncodeToString(sum[:])[:12]
}

// port is the node's end of a pod's veth pair.
type port struct {
	link netlink.Link
	pod  string
	addr netip.Addr
}

// The alias of a port says whose it is: "shiplog port <bridge> <pod> <address>".
func portAlias(bridge, pod string, addr netip.Addr) string {
	return fmt.Sprintf("shiplog port %s %s %s", bridge, pod, addr)
}

func parsePortAlias(alias string) (bridge, pod string, addr netip.Addr, ok bool) {
	words := strings.Fields(alias)
	if len(words) != 5 || words[0] != "shiplog" || words[1] != "port" {
		return "", "", netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(words[4])
	return words[2], words[3], addr, err == nil
}

// ports lists the devices of this network's pods, also those that lost their bridge.
func (n *Network) ports() ([]port, error) {
	links, err := linkList()
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	var ports []port
	for _, link := range links {
		bridge, pod, addr, ok := parsePortAlias(link.Attrs().Alias)
		if ok && bridge == n.cfg.Bridge {
			ports = append(ports, port{link: link, pod: pod, addr: addr})
		}
	}
	return ports, nil
}
