package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// ErrNoIPSet says that the ipset program is not installed.
var ErrNoIPSet = errors.New("ipset is not installed (Debian: apt-get install ipset)")

func (o Options) withDefaults() Options {
	if o.ChainPrefix == "" {
		o.ChainPrefix = "SHIPLOG"
	}
	if o.MarkBit <= 0 || o.MarkBit > 31 {
		o.MarkBit = 17
	}
	if o.IPSet == "" {
		o.IPSet = "ipset"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Enforcer keeps a node's policy rules as a State says. It is safe for concurrent use.
type Enforcer struct {
	opts   Options
	ipset  string
	tables *xtables.Tool
	log    *slog.Logger

	mu      sync.Mutex // guards what follows, and orders the changes
	applied Ruleset    // what the kernel has; empty when that is not known
	state   *State     // the last one handed over; nil before
}

// New finds the programs; it changes nothing. Errors: xtables.ErrMissing, ErrNoIPSet.
func New(opts Options) (*Enforcer, error) {
	opts = opts.withDefaults()
	if strings.ContainsFunc(opts.ChainPrefix, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) || len(opts.ChainPrefix) > 11 {
		return nil, fmt.Errorf("chain prefix %q: at most 11 capital letters and digits", opts.ChainPrefix)
	}
	tool, err := xtables.Open(opts.IPTables, opts.LockWait)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath(opts.IPSet)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", opts.IPSet, ErrNoIPSet)
	}
	return &Enforcer{opts: opts, ipset: path, tables: tool, log: opts.Logger.With("iptables", tool.Backend())}, nil
}

// Apply makes the node's rules say what the state says. The first call, and one after a failure, also removes what a former
// process left; any other writes only what changed.
func (e *Enforcer) Apply(ctx context.Context, state State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = &state
	return e.sync(ctx, state)
}

// Verify looks whether somebody emptied the tables (another firewall's restart does it) and writes everything again if so.
// Call it from time to time; before the first Apply it does nothing.
func (e *Enforcer) Verify(ctx context.Context) (repaired bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == nil {
		return false, nil
	}
	has, err := e.tables.HasJump(e.jump())
	if err != nil || has {
		return false, err
	}
	e.log.Warn("the policy rules were removed by somebody else: writing them again")
	e.applied = Ruleset{}
	return true, e.sync(ctx, *e.state)
}

func (e *Enforcer) sync(ctx context.Context, state State) (err error) {
	want := Render(state, e.opts)
	defer func() {
		if err != nil {
			e.applied = Ruleset{}
			err = fmt.Errorf("applying network policies: %w", err)
		}
	}()
	full := e.applied.chains == nil
	changed, left, err := e.difference(ctx, want, full)
	if err != nil {
		return err
	}
	// A set's name is the hash of what is in it, so sets never change: first the new ones come, then the rules, then the old go.
	var create strings.Builder
	for name, set := range want.Sets {
		if _, has := e.applied.Sets[name]; !has {
			create.WriteString(createText(name, set))
		}
	}
	if err := e.ipsetRestore(ctx, create.String()); err != nil {
		return err
	}
	if len(changed) > 0 {
		if err := e.tables.Restore(ctx, xtables.RestoreText(changed, want.chains, leavesFirst, 0)); err != nil {
			return err
		}
	}
	if full {
		if err := e.tables.EnsureJumpFirst(e.jump()); err != nil {
			return err
		}
	}
	var destroy strings.Builder
	for _, name := range left {
		destroy.WriteString("destroy " + name + "\n")
	}
	if err := e.ipsetRestore(ctx, destroy.String()); err != nil {
		return err
	}
	e.applied = want
	e.log.Debug("network policies applied", "full", full, "chains", len(changed), "sets", len(want.Sets), "policies", len(state.Policies))
	return nil
}

// difference returns the chains to write or remove and the sets to destroy.
func (e *Enforcer) difference(ctx context.Context, want Ruleset, full bool) (changed []xtables.Chain, left []string, err error) {
	had, sets := e.applied.chains, []string{}
	for name := range e.applied.Sets {
		sets = append(sets, name)
	}
	if full {
		if had, err = e.existing(ctx); err != nil {
			return nil, nil, err
		}
		if sets, err = e.existingSets(ctx); err != nil {
			return nil, nil, err
		}
	}
	for id, text := range want.chains {
		if old, ok := had[id]; !ok || full || old != text {
			changed = append(changed, id)
		}
	}
	for id := range had {
		if _, keep := want.chains[id]; !keep {
			changed = append(changed, id)
		}
	}
	for _, name := range sets {
		if _, keep := want.Sets[name]; !keep {
			left = append(left, name)
		}
	}
	return changed, left, nil
}

func (e *Enforcer) jump() xtables.Jump {
	return xtables.Jump{Table: filterTable, From: "FORWARD", To: e.opts.ChainPrefix + xtables.PolicyChain}
}

// existing lists the chains of ours in the kernel, whoever made them.
func (e *Enforcer) existing(ctx context.Context) (map[xtables.Chain]string, error) {
	saved, err := e.tables.Save(ctx, filterTable)
	if err != nil {
		return nil, err
	}
	found := map[xtables.Chain]string{}
	for _, name := range xtables.Chains(saved) {
		rest, ok := strings.CutPrefix(name, e.opts.ChainPrefix)
		if ok && (rest == xtables.PolicyChain || slices.ContainsFunc([]string{ingressChain, egressChain, rulesChain}, func(family string) bool {
			return strings.HasPrefix(rest, family)
		})) {
			found[xtables.Chain{Table: filterTable, Name: name}] = ""
		}
	}
	return found, nil
}

func (e *Enforcer) existingSets(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, e.ipset, "list", "-name").Output()
	if err != nil {
		return nil, fmt.Errorf("listing sets: %w", err)
	}
	var found []string
	for name := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(name, e.opts.ChainPrefix+setFamily) {
			found = append(found, name)
		}
	}
	return found, nil
}

func (e *Enforcer) ipsetRestore(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, e.ipset, "-exist", "restore")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("changing sets: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Teardown removes every rule, chain and set of ours, also those of a former process.
func (e *Enforcer) Teardown(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied, e.state = Ruleset{}, nil
	errs := []error{e.tables.RemoveJump(e.jump())}
	chains, err := e.existing(ctx)
	errs = append(errs, err)
	if len(chains) > 0 {
		var ids []xtables.Chain
		for id := range chains {
			ids = append(ids, id)
		}
		errs = append(errs, e.tables.Restore(ctx, xtables.RestoreText(ids, nil, leavesFirst, 0)))
	}
	sets, err := e.existingSets(ctx)
	errs = append(errs, err)
	var destroy strings.Builder
	for _, name := range sets {
		destroy.WriteString("destroy " + name + "\n")
	}
	errs = append(errs, e.ipsetRestore(ctx, destroy.String()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing network policies: %w", err)
	}
	return nil
}
