package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// machineSettings are the kernel settings that concern more than our bridge. What they were before the first node of this
// machine changed them is kept in the alias of its bridge, where it lives exactly as long as the settings themselves: a killed
// agent leaves both, a reboot neither.
var machineSettings = []struct{ name, sysctl, value string }{
	{"ip_forward", "net/ipv4/ip_forward", "1"},
	// Without it a reply between two pods of one bridge would not pass iptables and keep the wrong source address.
	{"bridge-nf-call-iptables", "net/bridge/bridge-nf-call-iptables", "1"},
	// The kernel sends redirects by a device when this one or the device's own says so. A pod that asks for a service address
	// would be told to look for it among its neighbours. Other devices keep their own setting, and so what they do.
	{"send_redirects", "net/ipv4/conf/all/send_redirects", "0"},
}

const bridgeAliasHead = "shiplog bridge"

func sysctlPath(name string) string { return filepath.Join("/proc/sys", name) }

func readSysctl(name string) (string, error) {
	raw, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return "", fmt.Errorf("reading kernel setting %s: %w", name, err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// writeSysctl writes only what differs: /proc/sys may be read-only where everything is right already.
func writeSysctl(name, value string) error {
	if now, err := readSysctl(name); err == nil && now == value {
		return nil
	}
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting kernel setting %s to %s: %w", name, value, err)
	}
	return nil
}

// labelBridge records with the bridge that it is ours and what the settings were before.
func (n *Network) labelBridge(bridge netlink.Link) error {
	if _, err := os.Stat(sysctlPath("net/bridge/bridge-nf-call-iptables")); errors.Is(err, fs.ErrNotExist) {
		if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
			return fmt.Errorf("loading kernel module br_netfilter, without which pods of one node cannot reach each other through a service: %w: %s",
				err, strings.TrimSpace(string(out)))
		}
	}
	former, err := n.formerSettings(bridge)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(bridge, bridgeAlias(former)); err != nil {
		return fmt.Errorf("recording the former kernel settings with the bridge: %w", err)
	}
	return nil
}

func (n *Network) ensureKernelSettings() error {
	for _, s := range machineSettings {
		if err := writeSysctl(s.sysctl, s.value); err != nil {
			return err
		}
	}
	// These are the bridge's own and go with it. Loose reverse-path filtering: a service's answer may come back by another
	// device than the way to its sender. No redirects: the gateway is the way, also between two pods of one bridge.
	own := "net/ipv4/conf/" + n.cfg.Bridge
	return errors.Join(writeSysctl(own+"/rp_filter", "2"), writeSysctl(own+"/send_redirects", "0"), disableIPv6(n.cfg.Bridge))
}

// disableIPv6 keeps a device from giving itself IPv6 addresses, by which pods would reach each other past every rule of ours.
func disableIPv6(device string) error {
	err := writeSysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

func bridgeAlias(former map[string]string) string {
	words := []string{bridgeAliasHead}
	for _, s := range machineSettings {
		words = append(words, s.name+"="+former[s.name])
	}
	return strings.Join(words, " ")
}

func parseBridgeAlias(alias string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(alias, bridgeAliasHead)
	if !ok {
		return nil, false
	}
	former := map[string]string{}
	for word := range strings.FieldsSeq(rest) {
		if name, value, ok := strings.Cut(word, "="); ok {
			former[name] = value
		}
	}
	return former, len(former) == len(machineSettings)
}

// formerSettings returns what the settings were before any node of this machine changed them.
func (n *Network) formerSettings(bridge netlink.Link) (map[string]string, error) {
	if former, ok := parseBridgeAlias(bridge.Attrs().Alias); ok {
		return former, nil
	}
	links, err := linkList()
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	for _, link := range links {
		if former, ok := parseBridgeAlias(link.Attrs().Alias); ok && link.Attrs().Index != bridge.Attrs().Index {
			return former, nil
		}
	}
	former := map[string]string{}
	for _, s := range machineSettings {
		if former[s.name], err = readSysctl(s.sysctl); err != nil {
			return nil, err
		}
	}
	return former, nil
}

// restoreKernelSettings puts the machine's settings back, unless somebody else's devices need them: another node of ours, or
// anything that bridges or tunnels (a virtual machine's bridge, another container engine) and relies on forwarding.
func (n *Network) restoreKernelSettings(bridge netlink.Link) error {
	former, ok := parseBridgeAlias(bridge.Attrs().Alias)
	if !ok {
		return nil
	}
	links, err := linkList()
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	for _, link := range links {
		if link.Attrs().Index == bridge.Attrs().Index {
			continue
		}
		switch link.Type() {
		case "bridge", "tun", "wireguard", "vxlan", "ipip", "gre":
			n.log.Info("leaving the kernel's forwarding settings: another device may need them", "device", link.Attrs().Name, "type", link.Type())
			return nil
		}
	}
	var errs []error
	for _, s := range machineSettings {
		if now, err := readSysctl(s.sysctl); err == nil && now == s.value {
			errs = append(errs, writeSysctl(s.sysctl, former[s.name]))
		}
	}
	return errors.Join(errs...)
}
