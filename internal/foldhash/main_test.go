package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTheHashIsThatOfTheFold: who changes the fold makes the snapshots of older builds unusable, without having to think of it.
func TestTheHashIsThatOfTheFold(t *testing.T) {
	root := filepath.Join("..", "..")
	hash, err := Hash(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "projections", "snapshot", "foldhash.go"))
	if err != nil {
		t.Fatal(err)
	}
	if want := string(File(hash)); string(got) != want {
		t.Errorf("the code that folds events has changed: run `go generate ./projections/snapshot`, which writes\n%s", want)
	}
}

func TestOnlyCodeCounts(t *testing.T) {
	const code = "package p\n\nfunc f(a int) int {\n\treturn a + 1\n}\n"
	want, err := bare("a.go", []byte(code))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source string
		same   bool
	}{
		"comments and blank lines": {"// Package p.\npackage p\n\n// f adds.\nfunc f(a int) int {\n\n\t// one\n\treturn a + 1 // more\n}\n", true},
		"blanks in a text":         {"package p\n\nfunc f(a int) int {\n\treturn a + len(\" \")\n}\n", false},
		"another number":           {"package p\n\nfunc f(a int) int {\n\treturn a + 2\n}\n", false},
		"another name":             {"package p\n\nfunc g(a int) int {\n\treturn a + 1\n}\n", false},
	} {
		got, err := bare("a.go", []byte(c.source))
		if err != nil {
			t.Fatal(err)
		}
		if (string(got) == string(want)) != c.same {
			t.Errorf("%s: %q, the code was %q", name, got, want)
		}
	}
}
