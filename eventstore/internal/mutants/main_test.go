package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every mutation of the list can still be made, and names tests that exist. (make mutants makes them.)
func TestMutationsApply(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	text, err := os.ReadFile(filepath.Join(root, list))
	if err != nil {
		t.Fatal(err)
	}
	mutations, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(mutations) < 25 {
		t.Errorf("there are %d mutations, want 25 at least", len(mutations))
	}
	for _, m := range mutations {
		broken, err := m.apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, broken, 0); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		files, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var tests strings.Builder
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(source)
		}
		for _, test := range m.tests {
			if !strings.Contains(tests.String(), "func "+test+"(") {
				t.Errorf("%s: there is no test %s in %s", m.name, test, m.pkg)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for name, text := range map[string]string{
		"no change":  "### a\n`f.go`, noticed by `TestA` in `./a`\n",
		"no test":    "### a\n```diff\n-x\n+y\n```\n",
		"no comment": "### a\n`f.go`, noticed by `TestA` in `./a`\n```diff\n x\n```\n",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%s: went through", name)
		}
	}
	got, err := parse("# Title\n### a b\n`f.go`, noticed by `TestA`, `TestB` in `./a`\n```diff\n-x\n-y\n+z\n```\n")
	if err != nil || len(got) != 1 || got[0].old != "x\ny" || got[0].new != "z" || len(got[0].tests) != 2 || got[0].pkg != "./a" {
		t.Errorf("got %+v, %v", got, err)
	}
}
