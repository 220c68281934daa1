// Package cluster is the composition root: it makes a running cluster, or a part of one, out of the rooms. It holds wiring only.
package cluster

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/shiplog/shiplog/domain"
)

// KEKFileEnv names the file of the key-encryption key for commands that have no flag for it.
const KEKFileEnv = "SHIPLOG_KEK_FILE"

// Config says what to run. The zero value of a field means its default where one is named.
type Config struct {
	DataDir string
	Listen  string // of the Kubernetes API, "127.0.0.1:6443"; port 0 picks one
	GraphQL string // of the GraphQL page, "127.0.0.1:8089"; "" for none
	Version string

	Postgres   string // DSN; "" starts a private one in the data directory
	EventStore string // esdb://...; "" keeps the log in the data directory

	KEKFile string   // of the key-encryption key; "" keeps it in the data directory
	Seal    []string // fields to seal besides the payloads of Secrets, as domain.SealFields reads them

	StoreListen string   // where to serve the log over EventStoreDB's protocol; "" for nowhere
	StoreWrite  []string // beginnings of the streams that its clients may write to

	Node         bool   // run containers on this machine
	NodeName     string // the host's name unless set
	NodeListen   string // of the node's API (logs, exec), ":10250"
	Bridge       string // of the pods of this node, "shiplog0"
	SimNodes     int
	PodCIDR      netip.Prefix
	ServiceCIDR  netip.Prefix
	ClusterDom   string
	AllowedNames []string // further names and addresses of the API server's certificate

	Logger *slog.Logger
}

// ParsePrefix reads an address range given by a flag.
func ParsePrefix(flag, value string, minBits, maxBits int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if err != nil || p != p.Masked() || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("--%s %s is not an IPv4 range: write it as in 10.96.0.0/16", flag, value)
	}
	if p.Bits() < minBits || p.Bits() > maxBits {
		return netip.Prefix{}, fmt.Errorf("--%s %s: choose a range between /%d and /%d", flag, value, minBits, maxBits)
	}
	return p, nil
}

// Check refuses what cannot work before anything is touched.
func (c *Config) Check() error {
	if c.EventStore != "" && !strings.HasPrefix(c.EventStore, "esdb://") && !strings.HasPrefix(c.EventStore, "esdb+discover://") {
		return fmt.Errorf("--eventstore %s: give a connection string such as esdb://host:2113?tls=false", c.EventStore)
	}
	if _, err := domain.SealFields(domain.Kinds(), c.Seal...); err != nil {
		return fmt.Errorf("--seal: %w", err)
	}
	if c.StoreListen != "" && c.EventStore != "" {
		return fmt.Errorf("--eventstore-listen serves a log that is in the data directory; this one is in another event store: connect to that")
	}
	if c.StoreListen == "" && len(c.StoreWrite) > 0 {
		return fmt.Errorf("--eventstore-write says what may be written where the log is served: give an address with --eventstore-listen")
	}
	if c.PodCIDR.Overlaps(c.ServiceCIDR) {
		return fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap: pods and services need ranges of their own", c.PodCIDR, c.ServiceCIDR)
	}
	for flag, addr := range map[string]string{"listen": c.Listen, "graphql": c.GraphQL, "eventstore-listen": c.StoreListen} {
		if addr == "" && flag != "listen" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("--%s %s: give an address and a port, as in 127.0.0.1:6443", flag, addr)
		}
	}
	if c.SimNodes < 0 || c.SimNodes > 5000 {
		return fmt.Errorf("--sim-nodes %d: choose between 0 and 5000", c.SimNodes)
	}
	return nil
}
