package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/backup"
	"github.com/shiplog/shiplog/ops/datadir"
)

func write(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a.backup")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// restore restores into a directory that is not there yet.
func restore(t testing.TB, r backup.Restore) (string, backup.Restored, error) {
	t.Helper()
	if r.Dir == "" {
		r.Dir = filepath.Join(t.TempDir(), "data")
	}
	r.Logger = quiet()
	done, err := r.Run(context.Background())
	return r.Dir, done, err
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A restored log is the same log: the same entries at the same places, whose chain goes on.
func TestARestoredLogIsTheSame(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			p := newPast(t, "", seed)
			var files []string
			var base backup.Summary
			for i := range 4 {
				p.happen(60)
				data := p.backup(backup.Options{Base: base.Trailer.Head, Log: base.Trailer.Log})
				var err error
				if _, base, err = read(data); err != nil {
					t.Fatal(err)
				}
				files = append(files, write(t, data))
				if i == 2 { // what is scavenged between two backups is in the earlier one as it was
					if _, err := p.log.Scavenge(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			dir, done, err := restore(t, backup.Restore{Files: files})
			if err != nil {
				t.Fatal(err)
			}
			log, err := embedded.Open(filepath.Join(dir, datadir.Log), embedded.Options{Logger: quiet(), ScavengeEvery: -1, Now: func() time.Time { return p.now }})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			head, err := log.Head(t.Context())
			if err != nil || head != base.Trailer.Head.Position || done.Head != base.Trailer.Head {
				t.Errorf("the head is %d (%v), restored %+v, backed up %+v", head, err, done, base.Trailer)
			}
			was, is := entriesOf(t, p.log, 1, head), entriesOf(t, log, 1, head)
			if len(was) != len(is) {
				t.Fatalf("%d entries, want %d", len(is), len(was))
			}
			for i, e := range is {
				if was[i].Scavenged { // since
					was[i].Scavenged, was[i].Proposed = e.Scavenged, e.Proposed
				}
			}
			sameEntries(t, "the restored log", was, is)
			for _, l := range []*embedded.Log{p.log, log} {
				if _, err := l.Scavenge(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 12 { // what readers see, and where writers stand
				stream := fmt.Sprintf("configmaps-default/c%d", i)
				event := eventstore.Proposed{Type: "Next", Data: []byte("{}")}
				a, errA := p.log.Append(t.Context(), stream, eventstore.Any, event)
				b, errB := log.Append(t.Context(), stream, eventstore.Any, event)
				if a != b || (errA == nil) != (errB == nil) {
					t.Errorf("%s goes on at %+v (%v), was to at %+v (%v)", stream, b, errB, a, errA)
				}
			}
		})
	}
}

func TestRestoreIntoADirectory(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 1)
	p.happen(30)
	file := write(t, p.backup(backup.Options{}))

	empty := t.TempDir()
	if err := os.Mkdir(filepath.Join(empty, "lost+found"), 0o700); err != nil { // the root of a file system
		t.Fatal(err)
	}
	if _, _, err := restore(t, backup.Restore{Files: []string{file}, Dir: empty}); err != nil {
		t.Error(err)
	}
	if got := names(t, empty); !slices.Equal(got, []string{"log", "lost+found", "version"}) {
		t.Errorf("the data directory holds %v", got)
	}
	dir, err := datadir.Open(empty)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := restore(t, backup.Restore{Files: []string{file}, Dir: empty}); !errors.Is(err, backup.ErrExists) {
		t.Errorf("a second time: %v", err)
	}

	cut := t.TempDir() // as a crash leaves it
	if err := os.MkdirAll(filepath.Join(cut, datadir.Restoring, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := restore(t, backup.Restore{Files: []string{file}, Dir: cut}); !errors.Is(err, backup.ErrExists) {
		t.Errorf("where a restore was cut off: %v", err)
	}
	if dir, err := datadir.Open(cut); err == nil {
		t.Errorf("a cluster can be started where a restore was cut off: %v", dir.Close())
	}
}

func TestWhatCannotBeRestoredLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p, other := newPast(t, "", 1), newPast(t, "", 2)
	p.happen(60)
	other.happen(60)
	full, foreign := p.backup(backup.Options{}), other.backup(backup.Options{})
	_, s, err := read(full)
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := read(foreign)
	if err != nil {
		t.Fatal(err)
	}
	p.happen(30)
	other.happen(60)
	first := p.backup(backup.Options{Base: s.Trailer.Head})
	_, s1, err := read(first)
	if err != nil {
		t.Fatal(err)
	}
	p.happen(30)
	second := p.backup(backup.Options{Base: s1.Trailer.Head})
	foreignNext := other.backup(backup.Options{Base: f.Trailer.Head})
	a, b, c, x, y := write(t, full), write(t, first), write(t, second), write(t, foreign), write(t, foreignNext)
	var broken []string
	for at := 20; at < len(full); at += len(full) / 8 {
		bad := bytes.Clone(full)
		bad[at] ^= 4
		broken = append(broken, write(t, bad), write(t, full[:at]))
	}
	late := bytes.Clone(second)
	late[len(late)-1] ^= 1

	type refusal struct {
		files []string
		want  error
	}
	refusals := map[string]refusal{
		"the incremental one alone": {[]string{b}, backup.ErrBase},
		"one left out":              {[]string{a, c}, backup.ErrBase},
		"in another order":          {[]string{a, c, b}, backup.ErrBase},
		"the same twice":            {[]string{a, b, b}, backup.ErrBase},
		"two full ones":             {[]string{a, a}, backup.ErrBase},
		"another log's":             {[]string{a, y}, backup.ErrForeign},
		"another log's full one":    {[]string{a, x}, backup.ErrBase},
		"the last damaged":          {[]string{a, b, write(t, late)}, backup.ErrDamaged},
		"no file":                   {[]string{a, filepath.Join(t.TempDir(), "none")}, os.ErrNotExist},
		"no backup":                 {[]string{write(t, []byte("something else altogether"))}, backup.ErrFormat},
	}
	for i, file := range broken {
		refusals[fmt.Sprint("damaged ", i)] = refusal{[]string{file}, backup.ErrDamaged}
	}
	for name, r := range refusals {
		dir, _, err := restore(t, backup.Restore{Files: r.files})
		if !errors.Is(err, r.want) {
			t.Errorf("%s: %v, want one that is %q", name, err, r.want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s was left behind: %v", name, dir, names(t, dir))
		}
		empty := t.TempDir()
		if _, _, err := restore(t, backup.Restore{Files: r.files, Dir: empty}); !errors.Is(err, r.want) || len(names(t, empty)) > 0 {
			t.Errorf("%s, into an empty directory: %v, and left %v", name, err, names(t, empty))
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	files := map[string]string{"pki/ca.key": "the authority's key", "pki/sa.key": "the tokens' key"}
	keys := t.TempDir()
	writeKeys(t, keys, files)
	p := newPast(t, "", 1)
	p.happen(30)
	data := p.backup(backup.WithKeys(keys))
	for name, content := range files {
		if bytes.Contains(data, []byte(content)) {
			t.Errorf("%s can be read in the backup", name)
		}
	}
	file := write(t, data)
	dir, done, err := restore(t, backup.Restore{Files: []string{file}, Passphrase: "open sesame"})
	if err != nil || !done.Keys {
		t.Fatalf("got %+v, %v", done, err)
	}
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, r := range map[string]struct {
		passphrase string
		without    bool
		want       error
	}{
		"none":    {"", false, backup.ErrKeys},
		"wrong":   {"open barley", false, backup.ErrPassphrase},
		"without": {"", true, nil},
	} {
		dir, done, err := restore(t, backup.Restore{Files: []string{file}, Passphrase: r.passphrase, WithoutKeys: r.without})
		if !errors.Is(err, r.want) || done.Keys {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "pki")); err == nil {
			t.Errorf("%s: keys were restored", name)
		}
	}
}

// changing is a log during whose first questions for the head a Secret's key changes.
type changing struct {
	*embedded.Log
	dir  string
	left int
}

func (c *changing) Head(ctx context.Context) (eventstore.Position, error) {
	if c.left--; c.left >= 0 {
		if err := os.WriteFile(filepath.Join(c.dir, "pki", "ca.key"), fmt.Append(nil, c.left), 0o600); err != nil {
			return 0, err
		}
		if _, err := c.Append(ctx, "configmaps-default/c0", eventstore.Any, eventstore.Proposed{Type: "Changed", Data: []byte("{}")}); err != nil {
			return 0, err
		}
	}
	return c.Log.Head(ctx)
}

// Keys that change while the head is read may lack one that an entry below it needs: then both are read again.
func TestTheKeysOfABackupAreThoseOfItsHead(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	writeKeys(t, keys, map[string]string{"pki/ca.key": "a key"})
	p := newPast(t, "", 1)
	var out bytes.Buffer
	trailer, err := backup.Write(t.Context(), &out, &changing{p.log, keys, 3}, backup.WithKeys(keys))
	if err != nil || trailer.Head.Position != 3 {
		t.Errorf("the backup ends at %+v, %v; the keys changed last at position 3", trailer.Head, err)
	}
	if _, err := backup.Write(t.Context(), &out, &changing{p.log, keys, 1 << 20}, backup.WithKeys(keys)); err == nil {
		t.Error("keys that never stand still were taken")
	}
}
