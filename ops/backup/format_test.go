package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/ops/backup"
)

func TestABackupHoldsWhatTheLogHolds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			p := newPast(t, "", seed)
			p.happen(300)
			head, err := p.log.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got, s, err := read(p.backup(backup.Options{}))
			if err != nil {
				t.Fatal(err)
			}
			want := entriesOf(t, backup.SourceOf(p.log), 1, head)
			sameEntries(t, "what the backup holds", want, got)
			last := want[len(want)-1]
			if s.Trailer.Head != (backup.Mark{Position: head, Digest: last.Digest}) || s.Trailer.Entries != uint64(len(want)) || s.Trailer.Log != want[0].Digest {
				t.Errorf("the trailer says %+v, the log ends with %+v after %d entries", s.Trailer, last, len(want))
			}
		})
	}
}

func TestTheBackupOfAnEmptyLog(t *testing.T) {
	t.Parallel()
	entries, s, err := read(newPast(t, "", 1).backup(backup.Options{}))
	if err != nil || len(entries) != 0 || s.Trailer.Entries != 0 {
		t.Errorf("got %d entries, %+v, %v", len(entries), s, err)
	}
}

// Every file that is not what was written is refused, wherever it differs.
func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 7)
	p.happen(8)
	keys := t.TempDir()
	writeKeys(t, keys, map[string]string{"pki/ca.key": "a key"})
	good := p.backup(backup.WithKeys(keys))
	if _, _, err := read(good); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, data []byte) {
		t.Helper()
		_, _, err := read(data)
		if err == nil {
			t.Errorf("%s: it was taken for a good backup", what)
		} else if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrFormat) {
			t.Errorf("%s: refused by %v", what, err)
		}
	}
	for i := range good {
		refused(fmt.Sprintf("cut off after %d bytes", i), good[:i])
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("a bit flipped in byte %d", i), bad)
	}
	refused("followed by more", append(bytes.Clone(good), 0))
	refused("twice", append(bytes.Clone(good), good...))
}

// Sections that are good in themselves, but not where they stand.
func TestReorderedSectionsAreRefused(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 8)
	for range 3 {
		p.large(1 << 20)
	}
	good := p.backup(backup.Options{})
	sections := backup.Sections(good)
	if len(sections) < 6 {
		t.Fatalf("the backup has only %d sections", len(sections))
	}
	for _, order := range [][]int{{0, 2, 1}, {0, 1}, {0, 1, 1, 2}, {1, 2}, {0, 0, 1, 2}} {
		var parts [][]byte
		for _, i := range order {
			parts = append(parts, sections[i])
		}
		for i := 3; i < len(sections)-1; i++ {
			parts = append(parts, sections[i])
		}
		_, _, err := read(backup.Joined(parts...))
		var damage *backup.DamageError
		if !errors.As(err, &damage) {
			t.Errorf("sections %v: %v", order, err)
		}
	}
	if _, _, err := read(backup.Joined(sections[:len(sections)-1]...)); err != nil {
		t.Errorf("in the right order: %v", err)
	}
}

func TestANewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	data := newPast(t, "", 1).backup(backup.Options{})
	data[bytes.IndexByte(data, '\n')+1]++
	if _, _, err := read(data); !errors.Is(err, backup.ErrFormat) {
		t.Errorf("got %v", err)
	}
}

// A backup is the beginning of the log, however much is written meanwhile.
func TestABackupUnderWritesIsAPrefix(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 3)
	p.happen(500)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				p.happen(1)
			}
		}
	}()
	var backups [][]byte
	for range 10 {
		backups = append(backups, p.backup(backup.Options{}))
	}
	close(stop)
	<-stopped
	head, err := p.log.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := entriesOf(t, backup.SourceOf(p.log), 1, head)
	for i, data := range backups {
		entries, s, err := read(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) > len(all) || entries[len(entries)-1].Position != s.Trailer.Head.Position {
			t.Fatalf("backup %d has %d entries up to %d, its head is %+v", i, len(entries), entries[len(entries)-1].Position, s.Trailer.Head)
		}
		for j, e := range entries {
			if want := all[j]; e.Digest != want.Digest || e.Position != want.Position {
				t.Fatalf("backup %d: entry %d is %+v, the log has %+v", i, j, e, want)
			}
		}
	}
}

func TestIncrementalBackups(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 4)
	p.happen(100)
	full := p.backup(backup.Options{})
	_, s, err := read(full)
	if err != nil {
		t.Fatal(err)
	}
	p.happen(100)
	entries, next, err := read(p.backup(backup.Options{Base: s.Trailer.Head, Log: s.Trailer.Log}))
	if err != nil {
		t.Fatal(err)
	}
	if next.Header.Base != s.Trailer.Head || next.Header.Log != s.Trailer.Log || entries[0].Position <= s.Trailer.Head.Position {
		t.Errorf("got %+v, beginning at %d, after %+v", next.Header, entries[0].Position, s.Trailer)
	}
	sameEntries(t, "the incremental backup", entriesOf(t, backup.SourceOf(p.log), s.Trailer.Head.Position+1, next.Trailer.Head.Position), entries)
	for what, o := range map[string]backup.Options{
		"another log":    {Base: s.Trailer.Head, Log: eventstore.Digest{1}},
		"another digest": {Base: backup.Mark{Position: s.Trailer.Head.Position, Digest: eventstore.Digest{1}}},
		"beyond the log": {Base: backup.Mark{Position: 1 << 40}},
	} {
		if _, err := backup.Write(t.Context(), &bytes.Buffer{}, backup.SourceOf(p.log), o); !errors.Is(err, backup.ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
