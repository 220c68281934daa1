package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// Proxy keeps a node's iptables rules as a State says. It is safe for concurrent use.
type Proxy struct {
	opts   Options
	tables *xtables.Tool
	log    *slog.Logger
	atOnce int // chains in one transaction; 0: any number

	mu      sync.Mutex // guards what follows, and orders the changes
	rules   *renderer
	env     surroundings
	current bool // the kernel says what rules says
	health  healthServers
}

// The nf_tables iptables-restore looks every line's chain up in a list of the transaction's chains: its time grows with the
// square of their number (ten thousand services in one transaction: a minute). The legacy one rewrites the whole table with each
// transaction, so it gets one.
const nftChainsAtOnce = 1000

// New finds iptables; it changes nothing. Errors: xtables.ErrMissing.
func New(opts Options) (*Proxy, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	tool, err := xtables.Open(opts.IPTables, opts.LockWait)
	if err != nil {
		return nil, err
	}
	p := &Proxy{opts: opts, tables: tool, log: opts.Logger.With("iptables", tool.Backend()), rules: newRenderer(opts)}
	p.health = healthServers{log: p.log, byPort: map[uint16]*healthServer{}}
	if tool.NFTables() {
		p.atOnce = nftChainsAtOnce
	}
	return p, nil
}

// Backend names the iptables installation, as in "iptables v1.8.9 (nf_tables)".
func (p *Proxy) Backend() string { return p.tables.Backend() }

// Apply makes the node's rules say what the state says. The first call, and one after a failure, writes everything and removes
// what a former process left; any other writes only the chains that changed. After an error call it again: no rule leads to a chain that is half written.
func (p *Proxy) Apply(ctx context.Context, state State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules.update(state)
	p.env = p.rules.env
	err := p.sync(ctx)
	p.health.update(p.rules.health)
	return err
}

// Verify looks whether somebody emptied the tables (another firewall's restart does it) and writes everything again if so.
// Call it from time to time; before the first Apply it does nothing.
func (p *Proxy) Verify(ctx context.Context) (repaired bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.current {
		return false, nil
	}
	for _, jump := range p.jumps() {
		has, err := p.tables.HasJump(jump)
		if err != nil {
			return false, err
		}
		if !has {
			p.log.Warn("the service rules were removed by somebody else: writing them again", "missing", jump.String())
			p.current = false
			return true, p.sync(ctx)
		}
	}
	return false, p.routeLocalnet()
}

func (p *Proxy) sync(ctx context.Context) error {
	started := time.Now()
	full := !p.current
	var text []byte
	if full {
		var err error
		if text, err = p.fullText(ctx); err != nil {
			return fmt.Errorf("applying service rules: %w", err)
		}
	} else if text = p.rules.delta(p.atOnce); len(text) == 0 {
		return p.routeLocalnet()
	}
	chains := len(p.rules.changed)
	if err := p.tables.Restore(ctx, text); err != nil {
		p.current = false
		return fmt.Errorf("applying service rules: %w", err)
	}
	if full {
		if err := p.enter(); err != nil {
			return fmt.Errorf("applying service rules: %w", err)
		}
		p.current = true
		chains = len(p.rules.chains)
	}
	if err := p.routeLocalnet(); err != nil {
		return fmt.Errorf("applying service rules: %w", err)
	}
	stale := p.rules.stale
	p.rules.settle()
	// The rules stand: a connection that could not be removed ends by itself when its client is quiet for a while.
	removed, err := cleanFlows(ctx, stale, p.env.nodeAddrs())
	if err != nil {
		p.log.Warn("clients of UDP services may talk to former endpoints for a while", "error", err)
	}
	p.log.Debug("service rules applied", "full", full, "chains", chains, "bytes", len(text), "removedFlows", removed, "took", time.Since(started))
	return nil
}

// fullText is everything, and the removal of chains of ours that should not be.
func (p *Proxy) fullText(ctx context.Context) ([]byte, error) {
	ids := slices.Collect(maps.Keys(p.rules.chains))
	for _, table := range tables {
		saved, err := p.tables.Save(ctx, table)
		if err != nil {
			return nil, err
		}
		for _, chain := range xtables.Chains(saved) {
			id := chainID{Table: table, Name: chain}
			if _, wanted := p.rules.chains[id]; !wanted && owns(p.opts.ChainPrefix, chain) {
				ids = append(ids, id)
			}
		}
	}
	return restoreText(ids, p.rules.chains, p.atOnce), nil
}

// jumps are the rules in everybody's chains that lead to ours, in the order in which they should be asked.
func (p *Proxy) jumps() []xtables.Jump {
	fresh := []string{"-m", "conntrack", "--ctstate", "NEW"}
	jump := func(table, from, to string, match []string) xtables.Jump {
		return xtables.Jump{Table: table, From: from, To: p.opts.ChainPrefix + to, Match: match}
	}
	return []xtables.Jump{
		jump(filterTable, "INPUT", localnetChain, nil),
		jump(filterTable, "INPUT", firewallChain, fresh),
		jump(filterTable, "INPUT", externalsChain, fresh),
		jump(filterTable, "FORWARD", firewallChain, fresh),
		jump(filterTable, "FORWARD", servicesChain, fresh),
		jump(filterTable, "FORWARD", externalsChain, fresh),
		jump(filterTable, "FORWARD", forwardChain, nil),
		jump(filterTable, "OUTPUT", firewallChain, fresh),
		jump(filterTable, "OUTPUT", servicesChain, fresh),
		jump(natTable, "PREROUTING", servicesChain, nil),
		jump(natTable, "OUTPUT", servicesChain, nil),
		jump(natTable, "POSTROUTING", postroutingChain, nil),
	}
}

// enter leads traffic to our chains.
func (p *Proxy) enter() error {
	for _, jump := range slices.Backward(p.jumps()) {
		// A network policy is asked first: what it forbids is not let through for being a service's.
		if err := p.tables.EnsureJumpAfter(jump, p.opts.ChainPrefix+xtables.PolicyChain); err != nil {
			return err
		}
	}
	return nil
}

// routeLocalnet lets loopback addresses be routed, once the guard against abuse stands. It is done with every change: a device
// that came meanwhile, or was made anew, has it off.
func (p *Proxy) routeLocalnet() error {
	for _, device := range p.opts.LocalnetDevices {
		if err := setRouteLocalnet(device, "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func setRouteLocalnet(device, value string) error {
	path := filepath.Join("/proc/sys/net/ipv4/conf", device, "route_localnet")
	now, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading whether %s routes loopback addresses: %w", device, err)
	}
	if strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("letting %s route loopback addresses, for node ports on 127.0.0.1: %w", device, err)
	}
	return nil
}

// Teardown removes every rule and chain of ours, also those of a former process. It does what it can and returns all errors.
func (p *Proxy) Teardown(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = false
	p.rules = newRenderer(p.opts)
	p.health.update(nil)
	var errs []error
	for _, device := range p.opts.LocalnetDevices {
		if err := setRouteLocalnet(device, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, jump := range p.jumps() {
		errs = append(errs, p.tables.RemoveJump(jump))
	}
	var text bytes.Buffer
	for _, table := range tables {
		saved, err := p.tables.Save(ctx, table)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var ids []chainID
		for _, chain := range xtables.Chains(saved) {
			if owns(p.opts.ChainPrefix, chain) {
				ids = append(ids, chainID{Table: table, Name: chain})
			}
		}
		text.Write(restoreText(ids, nil, p.atOnce))
	}
	if text.Len() > 0 {
		errs = append(errs, p.tables.Restore(ctx, text.Bytes()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing service rules: %w", err)
	}
	return nil
}
