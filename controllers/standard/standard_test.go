package standard_test

import (
	"flag"
	"os"
	"testing"

	"github.com/shiplog/shiplog/controllers/standard"
	"github.com/shiplog/shiplog/domain"
)

var update = flag.Bool("update", false, "write the graph anew")

const page = "../../docs/controllers.md"

// The page of the handbook shows the graph of the controllers as they are.
func TestTheGraphIsCurrent(t *testing.T) {
	r, err := standard.Registry(standard.Options{Kinds: domain.NewSet(domain.Kinds())})
	if err != nil {
		t.Fatal(err)
	}
	want := "# The controllers\n\n" +
		"Who reads and who writes what, as `shiplog controllers` prints it. Each set of fields has one writer: the program does not start when\n" +
		"two controllers claim the same. This page is written by `go test ./controllers/standard -update`.\n\n```\n" + r.Graph().Text() + "```\n"
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not current: go test ./controllers/standard -update", page)
	}
}
