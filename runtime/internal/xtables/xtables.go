// Package xtables is how the node's rooms speak to iptables: chains and jump rules one by one through go-iptables, bulk through
// one iptables-restore transaction. Every error names the backend (nf_tables or legacy), because half of what goes wrong with
// iptables is two programs using different ones.
package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// ErrMissing says that the iptables programs are not installed.
var ErrMissing = errors.New("iptables is not installed (Debian: apt-get install iptables)")

// MaxChainName is the longest name that both backends accept for a chain, in bytes.
const MaxChainName = 28

// Tool is one iptables installation: the program and its -save and -restore companions. It is safe for concurrent use; the
// kernel (nf_tables) or the xtables lock (legacy) orders the changes.
type Tool struct {
	save, restore string
	backend       string
	wait          int
	ipt           *iptables.IPTables
}

// Open finds the program (a name on PATH or a path; "iptables" when empty) and its companions. lockWait is how long a command
// waits for the xtables lock before it fails, rounded up to seconds; 5 s when zero. Errors: ErrMissing.
func Open(program string, lockWait time.Duration) (*Tool, error) {
	if program == "" {
		program = "iptables"
	}
	if lockWait <= 0 {
		lockWait = 5 * time.Second
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", program, ErrMissing)
	}
	t := &Tool{save: path + "-save", restore: path + "-restore", wait: int((lockWait + time.Second - 1) / time.Second)}
	for _, companion := range []string{t.save, t.restore} {
		if _, err := exec.LookPath(companion); err != nil {
			return nil, fmt.Errorf("looking for %s: %w", companion, ErrMissing)
		}
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w: %s", path, err, bytes.TrimSpace(out))
	}
	t.backend = strings.TrimSpace(string(out))
	if !strings.Contains(t.backend, "(") {
		t.backend += " (legacy)" // before 1.8 there was nothing else, and it did not say so
	}
	t.ipt, err = iptables.New(iptables.Path(path), iptables.Timeout(t.wait))
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", t.backend, err)
	}
	return t, nil
}

// Backend names the installation in logs and errors, as in "iptables v1.8.9 (nf_tables)".
func (t *Tool) Backend() string { return t.backend }

// NFTables says whether the backend is nf_tables; the other is legacy.
func (t *Tool) NFTables() bool { return strings.Contains(t.backend, "nf_tables") }

// Save returns what iptables-save prints of one table.
func (t *Tool) Save(ctx context.Context, table string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, t.save, "-t", table)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("saving table %s by %s: %w: %s", table, t.backend, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

var failedLine = regexp.MustCompile(`(?i)(?:error occurred at line: |line )(\d+)(?: failed)?`)

// Restore feeds the text to one iptables-restore that keeps everything the text does not mention. Either all of a table's
// lines take effect or none does.
func (t *Tool) Restore(ctx context.Context, text []byte) error {
	cmd := exec.CommandContext(ctx, t.restore, "--noflush", "--wait", strconv.Itoa(t.wait))
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(string(out))
	if m := failedLine.FindStringSubmatch(said); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			if lines := bytes.Split(text, []byte("\n")); n >= 1 && n <= len(lines) {
				return fmt.Errorf("restoring rules by %s: %w: %s: the line is %q", t.backend, err, said, lines[n-1])
			}
		}
	}
	return fmt.Errorf("restoring rules by %s: %w: %s", t.backend, err, said)
}

// Jump is a rule in a chain that others share (FORWARD, OUTPUT ...), leading to a chain of ours.
type Jump struct {
	Table, From, To string
	Match           []string // what the rule matches on, in iptables' own words; may be empty
}

func (j Jump) spec() []string {
	return append(append([]string{}, j.Match...), "-j", j.To)
}

func (j Jump) String() string {
	return fmt.Sprintf("%s: -A %s %s", j.Table, j.From, strings.Join(j.spec(), " "))
}

// EnsureChain creates an empty chain unless there is one of that name.
func (t *Tool) EnsureChain(table, chain string) error {
	exists, err := t.ipt.ChainExists(table, chain)
	if err != nil {
		return fmt.Errorf("looking for chain %s in table %s by %s: %w", chain, table, t.backend, err)
	}
	if exists {
		return nil
	}
	if err := t.ipt.NewChain(table, chain); err != nil {
		if again, checkErr := t.ipt.ChainExists(table, chain); checkErr == nil && again {
			return nil
		}
		return fmt.Errorf("creating chain %s in table %s by %s: %w", chain, table, t.backend, err)
	}
	return nil
}

// EnsureJumpFirst inserts the jump as the first rule of its chain unless it is there already, at whichever place.
func (t *Tool) EnsureJumpFirst(j Jump) error { return t.insert(j, 1) }

// EnsureJumpAfter inserts the jump after the last rule that leads to a chain whose name begins with the prefix, or first when
// there is none. It lets a rule that accepts come after the ones of the same family that refuse, in whichever order the two
// were set up.
func (t *Tool) EnsureJumpAfter(j Jump, prefix string) error {
	rules, err := t.ipt.List(j.Table, j.From)
	if err != nil {
		return fmt.Errorf("listing chain %s of table %s by %s: %w", j.From, j.Table, t.backend, err)
	}
	at, n := 1, 0
	for _, rule := range rules {
		if !strings.HasPrefix(rule, "-A ") {
			continue // the chain's policy
		}
		n++
		if strings.Contains(rule, " -j "+prefix) {
			at = n + 1
		}
	}
	return t.insert(j, at)
}

func (t *Tool) insert(j Jump, at int) error {
	exists, err := t.ipt.Exists(j.Table, j.From, j.spec()...)
	if err != nil {
		return fmt.Errorf("looking for jump %q by %s: %w", j, t.backend, err)
	}
	if exists {
		return nil
	}
	if err := t.ipt.Insert(j.Table, j.From, at, j.spec()...); err != nil {
		return fmt.Errorf("inserting jump %q by %s: %w", j, t.backend, err)
	}
	return nil
}

// RemoveJump deletes every copy of the jump; that there is none is no error.
func (t *Tool) RemoveJump(j Jump) error {
	for {
		exists, err := t.HasJump(j)
		if err != nil {
			return err
		}
		if !exists {
			return nil
		}
		if err := t.ipt.Delete(j.Table, j.From, j.spec()...); err != nil {
			return fmt.Errorf("removing jump %q by %s: %w", j, t.backend, err)
		}
	}
}

// Chains returns the names of the chains in what iptables-save printed of a table.
func Chains(saved []byte) []string {
	var names []string
	for line := range bytes.Lines(saved) {
		if line[0] != ':' {
			continue
		}
		if end := bytes.IndexByte(line, ' '); end > 1 {
			names = append(names, string(line[1:end]))
		}
	}
	return names
}

// RemoveChains empties and deletes, in one transaction a table, every chain whose name begins with the prefix. Jumps to them
// from other chains have to be removed first.
func (t *Tool) RemoveChains(ctx context.Context, prefix string, tables ...string) error {
	var text bytes.Buffer
	for _, table := range tables {
		saved, err := t.Save(ctx, table)
		if err != nil {
			return err
		}
		var flush, remove bytes.Buffer
		for _, chain := range Chains(saved) {
			if strings.HasPrefix(chain, prefix) {
				fmt.Fprintf(&flush, ":%s - [0:0]\n", chain)
				fmt.Fprintf(&remove, "-X %s\n", chain)
			}
		}
		if flush.Len() == 0 {
			continue
		}
		fmt.Fprintf(&text, "*%s\n%s%sCOMMIT\n", table, flush.String(), remove.String())
	}
	if text.Len() == 0 {
		return nil
	}
	return t.Restore(ctx, text.Bytes())
}

// HasJump says whether the jump is there. A missing chain at either end counts as no.
func (t *Tool) HasJump(j Jump) (bool, error) {
	has, err := t.ipt.Exists(j.Table, j.From, j.spec()...)
	if err != nil {
		// iptables answers alike for a missing rule and for a rule that names a missing chain.
		var ipErr *iptables.Error
		if errors.As(err, &ipErr) && (ipErr.IsNotExist() || ipErr.ExitStatus() == 2) {
			return false, nil
		}
		return false, fmt.Errorf("looking for jump %q by %s: %w", j, t.backend, err)
	}
	return has, nil
}
