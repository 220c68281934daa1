package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/domain"
)

func TestThePageIsUpToDate(t *testing.T) {
	got, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "event-catalogue.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != page(domain.Kinds()) {
		t.Error("docs/event-catalogue.md is not what the descriptors say: run go generate ./domain")
	}
}

func TestEveryKindIsOnThePage(t *testing.T) {
	text := page(domain.Kinds())
	for _, k := range domain.Kinds() {
		if !strings.Contains(text, "## "+k.Kind+"\n") && !strings.Contains(text, k.Kind+" (`") {
			t.Errorf("%s is missing", k.Kind)
		}
	}
}

func TestRunWantsAFile(t *testing.T) {
	if err := run(nil); err == nil {
		t.Error("run without a file succeeded")
	}
	file := filepath.Join(t.TempDir(), "page.md")
	if err := run([]string{file}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "`PodBound`") {
		t.Errorf("%v", err)
	}
}
