// Command mutants breaks the log on purpose, one change of eventstore/MUTATIONS.md after the other, and runs the tests that should
// notice. It fails when they do not. It changes no file: the Go command takes the broken one from an overlay.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const list = "eventstore/MUTATIONS.md"

// mutation is a small change that breaks something.
type mutation struct {
	name     string
	file     string
	tests    []string
	pkg      string
	old, new string
}

var (
	heading = regexp.MustCompile(`^### (.+)$`)
	noticed = regexp.MustCompile("^`([^`]+)`, noticed by (.+) in `([^`]+)`$")
	quoted  = regexp.MustCompile("`([^`]+)`")
)

// parse reads the list: a heading a mutation, the file and who notices, and what changes as a diff without context.
func parse(text string) ([]mutation, error) {
	var out []mutation
	var old, changed []string
	inDiff := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case inDiff && line == "```":
			inDiff = false
			m := &out[len(out)-1]
			m.old, m.new = strings.Join(old, "\n"), strings.Join(changed, "\n")
		case inDiff && strings.HasPrefix(line, "-"):
			old = append(old, line[1:])
		case inDiff && strings.HasPrefix(line, "+"):
			changed = append(changed, line[1:])
		case inDiff:
			return nil, fmt.Errorf("%s: %q: a line of a change begins with - or +", out[len(out)-1].name, line)
		case heading.MatchString(line):
			out = append(out, mutation{name: heading.FindStringSubmatch(line)[1]})
		case len(out) > 0 && noticed.MatchString(line):
			m, parts := &out[len(out)-1], noticed.FindStringSubmatch(line)
			m.file, m.pkg = parts[1], parts[3]
			for _, test := range quoted.FindAllStringSubmatch(parts[2], -1) {
				m.tests = append(m.tests, test[1])
			}
		case len(out) > 0 && line == "```diff":
			inDiff, old, changed = true, nil, nil
		}
	}
	for _, m := range out {
		if m.file == "" || m.pkg == "" || len(m.tests) == 0 || m.old == "" || m.old == m.new {
			return nil, fmt.Errorf("%s: it needs a line that says which file and who notices, and a change", m.name)
		}
	}
	return out, nil
}

// apply returns the file as the mutation leaves it. What it changes must be there once.
func (m mutation) apply(root string) (string, error) {
	source, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("%s: what it changes is in %s %d times, must be once: adapt it to the code, or find another change that breaks the same", m.name, m.file, n)
	}
	return strings.Replace(string(source), m.old, m.new, 1), nil
}

// pattern selects the tests: one, or a part of one, or several.
func (m mutation) pattern() string {
	if test, part, ok := strings.Cut(m.tests[0], "/"); ok && len(m.tests) == 1 {
		return "^" + test + "$/^" + part + "$"
	}
	return "^(" + strings.Join(m.tests, "|") + ")$"
}

var errSurvived = errors.New("no test noticed")

// try runs the tests against the broken file.
func (m mutation) try(ctx context.Context, root, dir string) error {
	broken, err := m.apply(root)
	if err != nil {
		return err
	}
	file, overlay := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, m.file): file}})
	if err := errors.Join(err, os.WriteFile(file, []byte(broken), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return err
	}
	// What a property test writes down of a failure that was provoked is of no use to anybody.
	failures := filepath.Join(root, m.pkg, "testdata", "rapid")
	if _, err := os.Stat(failures); errors.Is(err, fs.ErrNotExist) {
		defer os.RemoveAll(failures)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-count", "1", "-timeout", "1m",
		"-run", m.pattern(), m.pkg)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return errSurvived
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(string(out), "[build failed]"), !strings.Contains(string(out), "FAIL"):
		return fmt.Errorf("the tests did not run:\n%s", out)
	}
	return nil
}

func run(ctx context.Context, out io.Writer, only string) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, list))
	if err != nil {
		return fmt.Errorf("reading the list of mutations (run this in the root of the repository): %w", err)
	}
	mutations, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("reading %s: %w", list, err)
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var failed []error
	tried := 0
	for _, m := range mutations {
		if !strings.Contains(m.name, only) {
			continue
		}
		tried++
		began := time.Now()
		err := m.try(ctx, root, dir)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(out, "NOT NOTICED %5.1f s  %s: %v\n", time.Since(began).Seconds(), m.name, err)
			continue
		}
		fmt.Fprintf(out, "noticed     %5.1f s  %s (%s)\n", time.Since(began).Seconds(), m.name, strings.Join(m.tests, ", "))
	}
	fmt.Fprintf(out, "%d of %d mutations noticed\n", tried-len(failed), tried)
	return errors.Join(failed...)
}

func main() {
	only := flag.String("only", "", "try only mutations whose name holds this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}
