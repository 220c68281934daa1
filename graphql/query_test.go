package graphql_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestQueries asks every query under testdata about the story, and compares with the answer beside it.
func TestQueries(t *testing.T) {
	w := newWorld(t)
	w.tell()
	files, err := filepath.Glob(filepath.Join("testdata", "queries", "*.graphql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no queries: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".graphql"), func(t *testing.T) {
			query, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, w.ask(string(query), nil), "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			golden := strings.TrimSuffix(file, ".graphql") + ".json"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
			for _, secret := range []string{"hunter2", "aHVudGVyMg", "correct horse", "Y29ycmVjdCBob3JzZQ"} {
				if strings.Contains(got.String(), secret) {
					t.Errorf("the answer gives a secret away")
				}
			}
		})
	}
}
