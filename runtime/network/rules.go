package network

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

const (
	forwardChain    = "-NET-FORWARD"
	masqueradeChain = "-NET-MASQ"
)

// rules is the whole text of our two chains, for iptables-restore.
func rules(cfg Config) string {
	forward, masquerade := cfg.ChainPrefix+forwardChain, cfg.ChainPrefix+masqueradeChain
	var b strings.Builder
	// Accept what a firewall with the policy DROP (docker sets it) would refuse.
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", forward)
	fmt.Fprintf(&b, "-A %s -i %s -m comment --comment \"from the pods of this node\" -j ACCEPT\n", forward, cfg.Bridge)
	fmt.Fprintf(&b, "-A %s -o %s -m comment --comment \"to the pods of this node\" -j ACCEPT\n", forward, cfg.Bridge)
	b.WriteString("COMMIT\n")
	// The world does not know the pods' addresses; the cluster does.
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", masquerade)
	fmt.Fprintf(&b, "-A %s ! -s %s -j RETURN\n", masquerade, cfg.PodCIDR)
	fmt.Fprintf(&b, "-A %s -d %s -m comment --comment \"pods know each other\" -j RETURN\n", masquerade, cfg.ClusterCIDR)
	fmt.Fprintf(&b, "-A %s -d 224.0.0.0/4 -j RETURN\n", masquerade)
	fmt.Fprintf(&b, "-A %s -m comment --comment \"pods to the outside\" -j MASQUERADE --random-fully\n", masquerade)
	b.WriteString("COMMIT\n")
	return b.String()
}

func jumps(cfg Config) []xtables.Jump {
	return []xtables.Jump{
		{Table: "filter", From: "FORWARD", To: cfg.ChainPrefix + forwardChain},
		{Table: "nat", From: "POSTROUTING", To: cfg.ChainPrefix + masqueradeChain},
	}
}

func (n *Network) ensureRules(ctx context.Context) error {
	if err := n.tables.Restore(ctx, []byte(rules(n.cfg))); err != nil {
		return fmt.Errorf("writing the pod network's rules: %w", err)
	}
	for _, j := range jumps(n.cfg) {
		// What refuses traffic (services without endpoints, policies) has to be asked before what accepts it.
		if err := n.tables.EnsureJumpAfter(j, n.cfg.ChainPrefix+"-"); err != nil {
			return fmt.Errorf("writing the pod network's rules: %w", err)
		}
	}
	return nil
}

func (n *Network) removeRules(ctx context.Context) error {
	var errs []error
	for _, j := range jumps(n.cfg) {
		errs = append(errs, n.tables.RemoveJump(j))
	}
	return errors.Join(append(errs, n.tables.RemoveChains(ctx, n.cfg.ChainPrefix+"-NET-", "filter", "nat"))...)
}
