package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/backup"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

var theDay = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// past writes random histories. One goroutine uses it.
type past struct {
	t      testing.TB
	log    *embedded.Log
	random *rand.Rand
	now    time.Time
}

// newPast opens an empty log in memory, or in a directory.
func newPast(t testing.TB, dir string, seed uint64) *past {
	t.Helper()
	p := &past{t: t, random: rand.New(rand.NewPCG(seed, 1)), now: theDay}
	o := embedded.Options{Logger: quiet(), ScavengeEvery: -1, Now: func() time.Time { return p.now }}
	if dir == "" {
		dir, o.FS = "log", vfs.NewMem()
	}
	var err error
	if p.log, err = embedded.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.log.Close() })
	return p
}

// happen appends n times to some of a few streams, and now and then changes metadata, deletes, tombstones, or scavenges.
func (p *past) happen(n int) {
	p.t.Helper()
	ctx := context.Background()
	for range n {
		p.now = p.now.Add(time.Duration(p.random.IntN(2000)) * time.Millisecond)
		stream := fmt.Sprintf("configmaps-default/c%d", p.random.IntN(12))
		var err error
		switch p.random.IntN(24) {
		case 0:
			err = p.log.SetMetadata(ctx, stream, eventstore.Any, eventstore.Metadata{
				MaxCount: uint64(p.random.IntN(4)), MaxAge: time.Duration(p.random.IntN(3)) * 20 * time.Second,
				Custom: map[string]any{"owner": "ada"},
			})
		case 1:
			err = p.log.Delete(ctx, stream, eventstore.Any)
		case 2:
			if p.random.IntN(4) == 0 {
				err = p.log.Tombstone(ctx, stream, eventstore.Any)
			}
		case 3:
			_, err = p.log.Scavenge(ctx)
		case 4:
			err = p.log.SetMetadata(ctx, stream, eventstore.Any, eventstore.Metadata{TruncateBefore: uint64(p.random.IntN(5))})
		default:
			_, err = p.log.Append(ctx, stream, eventstore.Any, p.events(1+p.random.IntN(4))...)
		}
		if err != nil && !errors.Is(err, eventstore.ErrStreamDeleted) {
			p.t.Fatal(err)
		}
	}
}

func (p *past) events(n int) []eventstore.Proposed {
	out := make([]eventstore.Proposed, n)
	for i := range out {
		out[i] = eventstore.Proposed{
			ID: uuid.New(), Type: []string{"ConfigMapCreated", "ConfigMapChanged"}[p.random.IntN(2)],
			Data: fmt.Appendf(nil, `{"number":%d,"text":"%x"}`, p.random.Int64(), make([]byte, p.random.IntN(200))),
		}
		if p.random.IntN(3) > 0 {
			out[i].Metadata = fmt.Appendf(nil, `{"actor":"user-%d"}`, p.random.IntN(5))
		}
	}
	return out
}

func (p *past) backup(o backup.Options) []byte {
	p.t.Helper()
	var out bytes.Buffer
	o.Now, o.Shiplog = theDay, "v1"
	if _, err := backup.Write(context.Background(), &out, backup.SourceOf(p.log), o); err != nil {
		p.t.Fatal(err)
	}
	return out.Bytes()
}

// read reads a whole backup, or the error that refuses it.
func read(data []byte) ([]eventstore.Entry, backup.Summary, error) {
	b, err := backup.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, backup.Summary{}, err
	}
	var all []eventstore.Entry
	for {
		entries, err := b.Next()
		if errors.Is(err, io.EOF) {
			return all, backup.Summary{Header: b.Header, Trailer: b.Trailer(), Keys: b.HasKeys()}, nil
		}
		if err != nil {
			return nil, backup.Summary{}, err
		}
		all = append(all, entries...)
	}
}

func entriesOf(t testing.TB, source backup.Source, from, to eventstore.Position) []eventstore.Entry {
	t.Helper()
	var out []eventstore.Entry
	for e, err := range source.Entries(t.Context(), from, to) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// sameEntries compares what stands at positions, in the form in which it stands there.
func sameEntries(t testing.TB, what string, want, got []eventstore.Entry) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s differs (-want +got):\n%s", what, diff)
	}
}

// large appends events that fill more than so many bytes and hardly compress.
func (p *past) large(size int) {
	p.t.Helper()
	for size > 0 {
		data := make([]byte, 64<<10)
		for i := range data {
			data[i] = byte(p.random.Uint32())
		}
		if _, err := p.log.Append(context.Background(), "blobs", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "Blob", ContentType: "application/octet-stream", Data: data}); err != nil {
			p.t.Fatal(err)
		}
		size -= len(data)
	}
}

func writeKeys(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
