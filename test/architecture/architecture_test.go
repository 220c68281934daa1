// Package architecture holds the rules of the house as tests: what may import what, and what a decider may not touch. The
// reason of each rule stands in its failure text.
package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/shiplog/shiplog/"

type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
}

// rel is the package's path inside the module.
func (p goPackage) rel() string { return strings.TrimPrefix(p.ImportPath, module) }

func (p goPackage) room() string {
	room, _, _ := strings.Cut(p.rel(), "/")
	return room
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, stderr.String())
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// layer orders the rooms; a room imports only rooms of a lower layer (and packages of its own).
var layer = map[string]int{
	"domain":     0,
	"eventstore": 1,
	"commands":   2, "projections": 2,
	"api": 3, "graphql": 3, "ops": 3, "controllers": 3, "scheduler": 3, "runtime": 3,
	"cmd": 4,
	// What several rooms' tests share stands in internal; it may know the rooms that it serves up.
	"internal": 3, "examples": 5, "test": 5,
}

// allowed are imports between rooms of one layer, each with the reason why it is no shortcut.
var allowed = map[string]string{
	"commands -> projections": "commands read the state that they decide upon from the live view",
	"api -> ops":              "the API server serves with the certificates that ops/pki keeps",
}

func TestRoomsImportDownwardsOnly(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		from, ok := layer[p.room()]
		if !ok {
			t.Errorf("%s is in no known room: put it into one, or add the room to the drawing in docs/concepts.md and to this test", p.rel())
			continue
		}
		for _, imp := range p.Imports {
			target, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			room, _, _ := strings.Cut(target, "/")
			if room == p.room() || room == "internal" {
				continue
			}
			to := layer[room]
			if to < from {
				continue
			}
			if to == from && allowed[p.room()+" -> "+room] != "" {
				continue
			}
			t.Errorf("%s imports %s: imports point down only (cmd -> api, graphql, ops, controllers, scheduler, runtime -> commands, projections -> eventstore -> domain), so that a lower room can be understood, tested and replaced without the upper ones", p.rel(), target)
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	t.Parallel()
	rules := []struct {
		prefix, reason string
		except         []string // packages (by path in the module) that may
	}{
		{"k8s.io/kubernetes/pkg/controller", "controllers are ours: they are pure functions whose decisions can be replayed", nil},
		{"k8s.io/kubernetes/pkg/scheduler", "the scheduler is ours: a pure function that keeps its reasons", []string{"commands/registry"}},
		{"k8s.io/kubernetes/pkg/kubelet", "the node agent is ours", []string{"api", "commands/registry"}},
		{"k8s.io/kubernetes/pkg/proxy", "the service proxy is ours", nil},
		{"k8s.io/kubernetes/cmd", "we build our own binary from libraries, not from other binaries' wiring", nil},
		{"k8s.io/apiserver/pkg/storage/etcd3", "there is no etcd: the log is the only storage", []string{"commands/storage"}},
		{"k8s.io/apiserver/pkg/storage/cacher", "the live view is the watch cache; a second one would double memory and add lag", nil},
		{"log", "logging is structured: use log/slog", nil},
	}
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			for _, r := range rules {
				if imp != r.prefix && !strings.HasPrefix(imp, r.prefix+"/") {
					continue
				}
				if strings.HasPrefix(imp, "log/") || hasPrefixAny(p.rel(), r.except) || p.room() == "examples" {
					continue
				}
				t.Errorf("%s imports %s: %s", p.rel(), imp, r.reason)
			}
		}
	}
}

// Rooms that change often stay light: their tests build in seconds because they never pull in the API machinery's server side.
func TestLightRoomsStayLight(t *testing.T) {
	t.Parallel()
	light := []string{"domain", "eventstore", "projections", "commands", "controllers", "scheduler", "runtime/agent", "runtime/sim", "runtime/proxy", "graphql"}
	heavy := []string{"k8s.io/kubernetes/", "k8s.io/apiserver/", "k8s.io/kubectl/"}
	for _, pkg := range light {
		cmd := exec.Command("go", "list", "-deps", "./"+pkg)
		cmd.Dir = root(t)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("listing what %s imports: %v", pkg, err)
		}
		for dep := range strings.SplitSeq(string(out), "\n") {
			if hasPrefixAny(dep, heavy) {
				t.Errorf("%s depends on %s: this room stays light, so that its tests build in seconds", pkg, dep)
				break
			}
		}
	}
}

// Deciding is pure: a clock, randomness or IO inside makes replay and simulation inexact.
func TestDecidersArePure(t *testing.T) {
	t.Parallel()
	forbidden := map[string]string{
		"time.Now": "the time comes in as an argument", "time.Since": "the time comes in as an argument",
		"rand.Int": "randomness comes in as an argument", "rand.Intn": "randomness comes in as an argument", "rand.N": "randomness comes in as an argument",
		"uuid.New": "ids come in as arguments", "uuid.NewString": "ids come in as arguments",
		"os.Open": "a decider does no IO", "os.ReadFile": "a decider does no IO", "os.WriteFile": "a decider does no IO",
	}
	for _, p := range packages(t) {
		if p.rel() != "domain" {
			continue
		}
		for _, file := range p.GoFiles {
			for call, pos := range calls(t, filepath.Join(p.Dir, file)) {
				if why := forbidden[call]; why != "" {
					t.Errorf("%s calls %s at %s: domain is a set of functions of values; %s", p.rel(), call, pos, why)
				}
			}
		}
	}
}

func calls(t *testing.T, file string) map[string]token.Position {
	t.Helper()
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]token.Position{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				found[x.Name+"."+sel.Sel.Name] = fset.Position(call.Pos())
			}
		}
		return true
	})
	return found
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 && !strings.Contains(p.rel(), "generated") {
			t.Errorf("%s has no package comment: one sentence that says what the package is for", p.rel())
		}
	}
}

func TestEveryRoomHasAReadme(t *testing.T) {
	t.Parallel()
	for _, room := range []string{"domain", "commands", "eventstore", "projections", "controllers", "scheduler", "runtime", "api", "graphql", "ops", "cmd", "test", "examples"} {
		if _, err := os.Stat(filepath.Join(root(t), room, "README.md")); err != nil {
			t.Errorf("%s has no README.md: its words, a drawing of its pipeline, and numbered steps \"to add a ...\"", room)
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(root(t), func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "." {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		// Under testing/synctest time.Sleep moves the fake clock; it waits for nothing.
		if bytes.Contains(src, []byte("testing/synctest")) {
			return nil
		}
		for call, pos := range calls(t, file) {
			switch call {
			case "time.Sleep":
				t.Errorf("%s: wait on a condition, not on time: a sleep is either too short or too long", pos)
			case "t.Skip", "t.Skipf", "t.SkipNow", "b.Skip", "b.Skipf":
				t.Errorf("%s: a skipped test is a hole: fail with a sentence that says what is missing", pos)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hasPrefixAny(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if s == p || strings.HasPrefix(s, strings.TrimSuffix(p, "/")+"/") || path.Clean(s) == path.Clean(p) {
			return true
		}
	}
	return false
}
