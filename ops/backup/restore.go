package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/datadir"
)

// Restore says what to make a data directory of.
type Restore struct {
	Files []string  // a full backup and the incremental ones that carry on from it, in order
	Stdin io.Reader // what the file "-" stands for
	Dir   string    // does not exist, or is empty
	// Passphrase opens the keys of the last backup that has some. Without one a backup with keys is refused, unless WithoutKeys is set.
	Passphrase  string
	WithoutKeys bool
	Progress    func(file string, at, head eventstore.Position)
	Logger      *slog.Logger
}

// Restored says what was restored.
type Restored struct {
	Dir       string            `json:"dir"`
	Log       eventstore.Digest `json:"log"`
	Head      Mark              `json:"head"`
	Entries   uint64            `json:"entries"`
	Scavenged uint64            `json:"scavenged"`
	Keys      bool              `json:"keys"` // whether certificates, token key and the keys of Secrets were restored too
}

// ErrKeys says that a backup holds keys and no passphrase was given.
var ErrKeys = errors.New("the backup holds keys")

// Run restores. Everything is written into a directory inside the data directory that keeps a cluster from starting there, is put
// in its place when all of it has been found good, and is removed when something has not. Errors: ErrDamaged, ErrFormat, ErrForeign,
// ErrBase, ErrKeys, ErrPassphrase, ErrExists.
func (r *Restore) Run(ctx context.Context) (_ Restored, err error) {
	made, err := claimDir(r.Dir)
	if err != nil {
		return Restored{}, err
	}
	draft := filepath.Join(r.Dir, datadir.Restoring)
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, os.RemoveAll(draft))
		if made {
			err = errors.Join(err, os.Remove(r.Dir))
		}
	}()
	if err := os.Mkdir(draft, 0o711); err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	if err := syncDir(r.Dir); err != nil { // from here on nothing starts in it, whatever happens
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	restored, keys, err := r.load(ctx, filepath.Join(draft, datadir.Log))
	if err != nil {
		return restored, err
	}
	if keys != nil {
		if err := keys.write(draft); err != nil {
			return restored, fmt.Errorf("writing the keys: %w", err)
		}
	}
	restored.Dir, restored.Keys = r.Dir, keys != nil
	if err := writeFile(filepath.Join(draft, "version"), fmt.Appendf(nil, "%d\n", datadir.Version), 0o644); err != nil {
		return restored, fmt.Errorf("restoring: %w", err)
	}
	return restored, putInPlace(draft, r.Dir)
}

// claimDir makes the directory, or finds it empty. What a file system puts into its own root does not count.
func claimDir(dir string) (made bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, os.MkdirAll(dir, 0o711)
	}
	if err != nil {
		return false, fmt.Errorf("restoring: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "lost+found":
		case datadir.Restoring:
			return false, fmt.Errorf("restoring into %s: %w: an earlier restore was cut off there: delete what is in the directory first", dir, ErrExists)
		default:
			return false, fmt.Errorf("restoring into %s: %w: there is %s in it: a restore needs an empty directory; move the old one away, or choose another", dir, ErrExists, e.Name())
		}
	}
	return false, nil
}

// putInPlace moves what was restored to where it belongs. The draft's directory goes last: while it is there nothing starts.
func putInPlace(draft, dir string) error {
	err := filepath.WalkDir(draft, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
	if err != nil {
		return fmt.Errorf("writing to disk what was restored: %w", err)
	}
	entries, err := os.ReadDir(draft)
	if err != nil {
		return fmt.Errorf("putting in place what was restored: %w", err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(draft, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("putting in place what was restored: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("putting in place what was restored: %w", err)
	}
	if err := os.Remove(draft); err != nil {
		return fmt.Errorf("putting in place what was restored: %w", err)
	}
	return syncDir(dir)
}

// load makes a log of the backups.
func (r *Restore) load(ctx context.Context, dir string) (_ Restored, _ Keys, err error) {
	log, err := embedded.Open(dir, embedded.Options{Logger: r.Logger, ScavengeEvery: -1})
	if err != nil {
		return Restored{}, nil, fmt.Errorf("restoring: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var done Restored
	var keys Keys
	for i, file := range r.Files {
		if keys, err = r.loadFile(ctx, log, file, &done, keys); err != nil {
			if i > 0 && (errors.Is(err, ErrBase) || errors.Is(err, ErrForeign)) {
				return done, nil, fmt.Errorf("restoring %s after %s: %w", file, r.Files[i-1], err)
			}
			return done, nil, fmt.Errorf("restoring %s: %w", file, err)
		}
	}
	digest, err := log.DigestAt(ctx, done.Head.Position)
	if err == nil && digest != done.Head.Digest {
		err = fmt.Errorf("%w: what was restored does not end with the digest of the backup", eventstore.ErrCorrupt)
	}
	return done, keys, err
}

func (r *Restore) loadFile(ctx context.Context, log eventstore.Chained, file string, done *Restored, keys Keys) (Keys, error) {
	in, err := Open(file, r.Stdin)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := NewReader(in)
	if err != nil {
		return nil, err
	}
	if err := carriesOn(&b.Header, done); err != nil {
		return nil, err
	}
	for {
		entries, err := b.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = log.Import(ctx, entries...)
		}
		if err != nil {
			return nil, err
		}
		if r.Progress != nil {
			r.Progress(file, b.At().Position, b.Header.Head.Position)
		}
	}
	t := b.Trailer()
	done.Log, done.Head = t.Log, t.Head
	done.Entries += t.Entries
	done.Scavenged += t.Scavenged
	switch {
	case !b.HasKeys() || r.WithoutKeys:
		return keys, nil
	case r.Passphrase == "":
		return nil, fmt.Errorf("%w: give their passphrase with --keys-passphrase-file, or leave them out with --without-keys", ErrKeys)
	}
	return b.Keys(r.Passphrase)
}

// carriesOn says whether a backup follows on what has been restored so far.
func carriesOn(h *Header, done *Restored) error {
	switch {
	case h.Incremental() && done.Head.Position == 0:
		return fmt.Errorf("%w: it holds only what came after position %d: name the backup that ends there first", ErrBase, h.Base.Position)
	case done.Head.Position == 0:
		return nil
	case !h.Incremental():
		return fmt.Errorf("%w: it is a full backup: restore it alone, or name incremental ones after it", ErrBase)
	case h.Log != done.Log:
		return fmt.Errorf("%w: that is %s, this is %s", ErrForeign, short(h.Log), short(done.Log))
	case h.Base.Position != done.Head.Position:
		return fmt.Errorf("%w: it carries on from position %d, and the one ahead of it ends at %d: name every backup in between, oldest first", ErrBase, h.Base.Position, done.Head.Position)
	case h.Base.Digest != done.Head.Digest:
		return fmt.Errorf("%w: at position %d it had become another one: its digest there is %s, not %s", ErrForeign, h.Base.Position, short(h.Base.Digest), short(done.Head.Digest))
	}
	return nil
}

// Summary is what a backup says of itself.
type Summary struct {
	File    string `json:"file"`
	Header  Header `json:"header"`
	Trailer `json:"trailer"`
	Keys    bool `json:"keys"`
}

// Inspect reads a backup and checks all of it. With an error it returns what it found out before.
func Inspect(ctx context.Context, file string, in io.Reader, progress func(at, head eventstore.Position)) (Summary, error) {
	s := Summary{File: file}
	b, err := NewReader(in)
	if err != nil {
		return s, err
	}
	for s.Header = b.Header; err == nil; err = ctx.Err() {
		if _, err = b.Next(); err != nil {
			break
		}
		if progress != nil {
			progress(b.At().Position, b.Header.Head.Position)
		}
	}
	if !errors.Is(err, io.EOF) {
		return s, err
	}
	s.Trailer, s.Keys = b.Trailer(), b.HasKeys()
	return s, nil
}

// BaseOf is where a backup ends: what an incremental one made since carries on from. Only the beginning of the file is read when
// that says it.
func BaseOf(ctx context.Context, file string) (base Mark, log eventstore.Digest, err error) {
	in, err := os.Open(file)
	if err != nil {
		return base, log, err
	}
	defer in.Close()
	b, err := NewReader(in)
	if err != nil {
		return base, log, fmt.Errorf("%s: %w", file, err)
	}
	if b.Header.Head.Digest != (eventstore.Digest{}) {
		return b.Header.Head, b.Header.Log, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return base, log, err
	}
	s, err := Inspect(ctx, file, in, nil)
	if err != nil {
		return base, log, fmt.Errorf("%s: %w", file, err)
	}
	if s.Trailer.Head.Position == 0 {
		return base, log, fmt.Errorf("%s is the backup of an empty log: make a full one", file)
	}
	return s.Trailer.Head, s.Trailer.Log, nil
}

// PassphraseFor reads a passphrase when a file is named.
func PassphraseFor(file string) (string, error) {
	if strings.TrimSpace(file) == "" {
		return "", nil
	}
	return ReadPassphrase(file)
}
