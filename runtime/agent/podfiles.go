package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The kernel's and libc's bounds on names and searches.
const (
	maxHostname    = 63
	maxNameservers = 3
	maxSearches    = 32
)

// podFiles are the files that every container of a pod gets: what they are called in the pod's directory, and where a container sees
// them.
var podFiles = [...]struct{ name, at string }{{"etc-hosts", "/etc/hosts"}, {"resolv.conf", "/etc/resolv.conf"}, {"hostname", "/etc/hostname"}}

// hasPodFiles says whether all of a pod's files are there. Each is whole if it is.
func (a *Agent) hasPodFiles(uid string) bool {
	for _, f := range podFiles {
		if _, err := os.Stat(filepath.Join(a.podDir(uid), f.name)); err != nil {
			return false
		}
	}
	return true
}

// writePodFiles writes a pod's files.
func (a *Agent) writePodFiles(api *corev1.Pod, ip string) error {
	dir := a.podDir(string(api.UID))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the pod's files: %w", err)
	}
	own := ""
	if api.Spec.HostNetwork {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("making the pod's files: %w", err)
		}
		own = string(data)
	}
	server := ""
	if a.cfg.ClusterDNS.IsValid() {
		server = a.cfg.ClusterDNS.String()
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("making the pod's files: %w", err)
	}
	host, full := a.hostname(api)
	content := map[string]string{
		"etc-hosts":   hostsFile(api, own, ip, host, full),
		"resolv.conf": resolvConf(api, parseResolver(string(resolv)), server, a.cfg.ClusterDomain),
		"hostname":    host + "\n",
	}
	for _, f := range podFiles {
		file := filepath.Join(dir, f.name)
		if err := os.WriteFile(file+".new", []byte(content[f.name]), 0o644); err != nil {
			return fmt.Errorf("making the pod's files: %w", err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return fmt.Errorf("making the pod's files: %w", err)
		}
	}
	return nil
}

// hostname returns a pod's hostname and, where it has a subdomain, its full name. A pod in the host's network has the node's name.
func (a *Agent) hostname(pod *corev1.Pod) (host, full string) {
	host, full = hostname(pod, a.cfg.ClusterDomain)
	if pod.Spec.HostNetwork {
		host = a.cfg.NodeName
	}
	return host, full
}

// hostname returns a pod's hostname and, where it has a subdomain, its full name.
func hostname(pod *corev1.Pod, clusterDomain string) (host, full string) {
	host = pod.Name
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	if len(host) > maxHostname {
		host = strings.TrimRight(host[:maxHostname], "-.")
	}
	if pod.Spec.Subdomain != "" {
		full = strings.Join([]string{host, pod.Spec.Subdomain, pod.Namespace, "svc", clusterDomain}, ".")
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && full != "" {
		host = full
	}
	return host, full
}

// hostsFile is a pod's /etc/hosts: its own names, and those that its spec adds. A pod in the host's network has the host's.
func hostsFile(pod *corev1.Pod, hostsOfNode, ip, host, full string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(hostsOfNode)
		if hostsOfNode != "" && !strings.HasSuffix(hostsOfNode, "\n") {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n")
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n")
		b.WriteString("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		if ip != "" {
			names := host
			if full != "" && full != host {
				names = full + "\t" + host
			}
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolver is what a resolv.conf says.
type resolver struct {
	servers, searches, options []string
}

func parseResolver(text string) resolver {
	var r resolver
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.servers = append(r.servers, f[1])
		case "search", "domain":
			r.searches = f[1:]
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

func (r resolver) String() string {
	var b strings.Builder
	if len(r.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.searches[:min(len(r.searches), maxSearches)], " "))
	}
	for _, s := range r.servers[:min(len(r.servers), maxNameservers)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

// resolvConf is a pod's /etc/resolv.conf by its dnsPolicy and dnsConfig.
func resolvConf(pod *corev1.Pod, node resolver, clusterDNS, clusterDomain string) string {
	var r resolver
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || (policy == "" && pod.Spec.HostNetwork) {
		policy = corev1.DNSDefault
	}
	switch {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault || clusterDNS == "":
		r = resolver{servers: node.servers, searches: node.searches, options: node.options}
	default:
		r.servers = []string{clusterDNS}
		r.searches = append([]string{pod.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}, node.searches...)
		r.options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = unique(append(append([]string(nil), r.servers...), c.Nameservers...))
		r.searches = unique(append(append([]string(nil), r.searches...), c.Searches...))
		for _, o := range c.Options {
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			r.options = replaceOption(r.options, o.Name, option)
		}
	}
	return r.String()
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func replaceOption(options []string, name, option string) []string {
	out := append([]string(nil), options...)
	for i, o := range out {
		if have, _, _ := strings.Cut(o, ":"); have == name {
			out[i] = option
			return out
		}
	}
	return append(out, option)
}
