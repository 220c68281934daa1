package logs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
	"github.com/shiplog/shiplog/runtime/logs"
)

const sample = `2030-01-01T00:00:01.000000001+00:00 stdout F one
2030-01-01T00:00:02Z stderr F two
2030-01-01T00:00:03Z stdout P thr
2030-01-01T00:00:03Z stdout F ee
2030-01-01T00:00:04Z stdout F 
2030-01-01T00:00:05Z stdout F five six
`

func write(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func n(v int64) *int64 { return &v }

func TestRead(t *testing.T) {
	file := write(t, sample)
	for name, c := range map[string]struct {
		o    logs.Options
		want string
	}{
		"everything":                   {logs.Options{}, "one\ntwo\nthree\n\nfive six\n"},
		"one stream":                   {logs.Options{Stream: "stderr"}, "two\n"},
		"the last line":                {logs.Options{Tail: n(1)}, "five six\n"},
		"a continued line counts once": {logs.Options{Tail: n(3)}, "three\n\nfive six\n"},
		"more than there is":           {logs.Options{Tail: n(99)}, "one\ntwo\nthree\n\nfive six\n"},
		"none":                         {logs.Options{Tail: n(0)}, ""},
		"since":                        {logs.Options{Since: time.Date(2030, 1, 1, 0, 0, 4, 0, time.UTC)}, "\nfive six\n"},
		"few bytes":                    {logs.Options{Limit: n(5)}, "one\nt"},
		"times":                        {logs.Options{Timestamps: true, Tail: n(3)}, "2030-01-01T00:00:03Z three\n2030-01-01T00:00:04Z \n2030-01-01T00:00:05Z five six\n"},
	} {
		var out strings.Builder
		if err := logs.Read(t.Context(), file, c.o, &out, nil); err != nil || out.String() != c.want {
			t.Errorf("%s: %q, %v; want %q", name, out.String(), err, c.want)
		}
	}
	if err := logs.Read(t.Context(), filepath.Join(t.TempDir(), "none"), logs.Options{}, &strings.Builder{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a log that is not there: %v", err)
	}
}

func TestFollowOverRotation(t *testing.T) {
	file := write(t, "2030-01-01T00:00:01Z stdout F one\n")
	appendTo := func(text string) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	var out runtimetest.Buffer
	ended := make(chan struct{})
	finished := make(chan error, 1)
	go func() { finished <- logs.Read(context.Background(), file, logs.Options{Follow: true}, &out, ended) }()
	shows := func(want string) {
		runtimetest.Eventually(t, want, func() bool { return out.String() == want })
	}
	shows("one\n")
	appendTo("2030-01-01T00:00:02Z stdout F tw")
	appendTo("o\n")
	shows("one\ntwo\n")
	appendTo("2030-01-01T00:00:03Z stdout F three\n")
	if err := os.Rename(file, file+".20300101"); err != nil {
		t.Fatal(err)
	}
	appendTo("2030-01-01T00:00:04Z stdout F four\n")
	shows("one\ntwo\nthree\nfour\n")
	appendTo("2030-01-01T00:00:05Z stdout F five\n")
	close(ended)
	if err := <-finished; err != nil || out.String() != "one\ntwo\nthree\nfour\nfive\n" {
		t.Errorf("in the end it is %q, %v", out.String(), err)
	}
}

// TestTailIsTheEndOfAll: whatever a log holds, its last n lines are the last n lines of the whole.
func TestTailIsTheEndOfAll(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.StringMatching(`[a-z ]{0,300}`), 0, 400).Draw(t, "lines")
		var b strings.Builder
		for _, l := range lines {
			b.WriteString("2030-01-01T00:00:01Z stdout F " + l + "\n")
		}
		file := filepath.Join(dir, "0.log")
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		count := rapid.Int64Range(0, 450).Draw(t, "tail")
		var out strings.Builder
		if err := logs.Read(context.Background(), file, logs.Options{Tail: &count}, &out, nil); err != nil {
			t.Fatal(err)
		}
		want := strings.Join(lines[max(0, len(lines)-int(count)):], "\n")
		if want != "" || count > 0 && len(lines) > 0 {
			want += "\n"
		}
		if out.String() != want {
			t.Fatalf("the last %d of %d lines are %d bytes, want %d", count, len(lines), out.Len(), len(want))
		}
	})
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add(strings.TrimSuffix(line, "\n"))
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := logs.Parse([]byte(s))
		if err == nil && (l.Stream != "stdout" && l.Stream != "stderr" || !strings.HasSuffix(s, string(l.Text))) {
			t.Errorf("%q is read as %+v", s, l)
		}
	})
}
