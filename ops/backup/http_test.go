package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/backup"
)

func serve(t testing.TB, log eventstore.Log) string {
	t.Helper()
	s := httptest.NewServer(backup.NewHandler(log, "v1", quiet()))
	t.Cleanup(s.Close)
	return s.URL
}

func fetch(t testing.TB, url string, o backup.Options) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	_, err := backup.Fetch(t.Context(), &out, http.DefaultClient, url, o)
	return out.Bytes(), err
}

func TestABackupOverHTTPIsTheSame(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 1)
	p.happen(200)
	url := serve(t, p.log)
	keys := t.TempDir()
	writeKeys(t, keys, map[string]string{"pki/ca.key": "a key"})
	for _, o := range []backup.Options{{}, backup.WithKeys(keys)} {
		data, err := fetch(t, url, o)
		if err != nil {
			t.Fatal(err)
		}
		got, s, err := read(data)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := read(p.backup(backup.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		sameEntries(t, "the backup over HTTP", want, got)
		if s.Keys != (o.KeysOf != "") {
			t.Errorf("keys: %v", s.Keys)
		}
		if s.Keys {
			dir, done, err := restore(t, backup.Restore{Files: []string{write(t, data)}, Passphrase: o.Passphrase})
			if err != nil || !done.Keys {
				t.Errorf("restoring into %s: %+v, %v", dir, done, err)
			}
		}
		p.happen(20)
		if data, err = fetch(t, url, backup.Options{Base: s.Trailer.Head, Log: s.Trailer.Log}); err != nil {
			t.Fatal(err)
		}
		if got, _, err = read(data); err != nil || got[0].Position != s.Trailer.Head.Position+1 {
			t.Errorf("what came since begins with %+v, %v", got[0], err)
		}
	}
	if _, err := fetch(t, url, backup.Options{Base: backup.Mark{Position: 5, Digest: eventstore.Digest{1}}}); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("since another log's backup: %v", err)
	}
}

// breaking is a log that cannot be read to its end.
type breaking struct{ *embedded.Log }

func (b breaking) Entries(ctx context.Context, from, to eventstore.Position) iter.Seq2[eventstore.Entry, error] {
	return func(yield func(eventstore.Entry, error) bool) {
		for e, err := range b.Log.Entries(ctx, from, to) {
			if e.Position == 20 {
				err = errors.New("the disk is on fire")
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func TestABackupOverHTTPThatBreaksOffIsRefused(t *testing.T) {
	t.Parallel()
	p := newPast(t, "", 1)
	p.happen(30)
	if _, err := fetch(t, serve(t, breaking{p.log}), backup.Options{}); err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("got %v", err)
	}
	whole := p.backup(backup.Options{})
	for cut := 0; cut < len(whole); cut += len(whole) / 40 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, bytes.NewReader(whole[:cut])) }))
		_, err := fetch(t, s.URL, backup.Options{})
		s.Close()
		if err == nil {
			t.Errorf("cut off after %d bytes it was taken", cut)
		}
	}
}

func TestAFileHasItsNameOnlyWhenItIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	failing := errors.New("it does not go on")
	if err := backup.Create(dir+"/a", func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		if got := names(t, dir); len(got) != 1 || got[0] == "a" {
			t.Errorf("while it is written: %v", got)
		}
		return failing
	}); !errors.Is(err, failing) || len(names(t, dir)) > 0 {
		t.Errorf("after a failure: %v, %v", err, names(t, dir))
	}
	whole := func(w io.Writer) error { _, err := w.Write([]byte("whole")); return err }
	if err := backup.Create(dir+"/a", whole); err != nil || len(names(t, dir)) != 1 {
		t.Errorf("%v, %v", err, names(t, dir))
	}
	if err := backup.Create(dir+"/a", whole); !errors.Is(err, backup.ErrExists) {
		t.Errorf("over a file: %v", err)
	}
}
