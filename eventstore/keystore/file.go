package keystore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/shiplog/shiplog/domain"
)

// Names of the files in a store's directory.
const (
	StoreName = "store"
	KEKName   = "kek"
)

// Options of a store in files.
type Options struct {
	// KEKFile is where the key-encryption key lies; "": beside the store. A new store makes it when it is not there.
	KEKFile string
	// ReadOnly opens a store for reading: it must be there, and several may read at a time.
	ReadOnly bool
	Logger   *slog.Logger // default: nowhere

	fs files
}

// File is a key store in files. It implements Store.
type File struct {
	opts Options
	file file
	kekf file

	mu       sync.RWMutex
	identity string
	keys     map[keyID]entry
	pending  map[keyID]bool
	held     int
	doomed   []entry // destroyed while the store was held: still on the disk
	keks     map[kekID]kek
	failed   error

	// The committer's own.
	current kek
	free    []int
	slots   int

	queue   chan *task
	stopped chan struct{}
	closing sync.RWMutex // held by those who queue, and by Close; never by the committer
	closed  bool
}

var _ Store = (*File)(nil)

// entry is a key and where it stands.
type entry struct {
	wrapped
	slot int
}

// task is something that the committer does to the files. Those that wait together share a sync.
type task struct {
	add    *entry // its key is in plain
	plain  []byte
	clear  []int
	alone  func() error
	result chan error
}

// Open opens the store in a directory, and makes both when they are not there. Errors: ErrInUse, ErrCorrupt, ErrVersion, ErrNoKEK.
func Open(dir string, o Options) (*File, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fs == nil {
		o.fs = osFiles{}
	}
	if o.KEKFile == "" {
		o.KEKFile = filepath.Join(dir, KEKName)
	}
	s := &File{
		opts: o, keys: map[keyID]entry{}, pending: map[keyID]bool{}, keks: map[kekID]kek{},
		queue: make(chan *task, 256), stopped: make(chan struct{}),
	}
	if err := s.open(dir); err != nil {
		return nil, fmt.Errorf("opening the key store %s: %w", dir, errors.Join(err, s.closeFiles()))
	}
	go s.commit()
	return s, nil
}

func (s *File) open(dir string) error {
	if _, real := s.opts.fs.(osFiles); real && !s.opts.ReadOnly {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	data, err := s.openStore(filepath.Join(dir, StoreName))
	if err != nil {
		return err
	}
	if s.identity, err = decodeHead(data); err != nil {
		return err
	}
	copies, stale, damaged := s.load(data[headSize:])
	keks, err := s.openKEK()
	if err != nil {
		return err
	}
	for _, k := range keks {
		s.keks[k.id] = k
	}
	s.current = keks[0]
	for _, e := range copies { // a rotation was cut off: the copy under the newer KEK is whole
		if kept := s.keys[e.id]; s.keks[e.kek].generation > s.keks[kept.kek].generation {
			s.keys[e.id], e = e, kept
		}
		stale = append(stale, e.slot)
	}
	for _, e := range s.keys {
		if _, ok := s.keks[e.kek]; !ok {
			return fmt.Errorf("%w: a key in the store was wrapped by another one than %s holds; put back the one that belongs to it, or move "+
				"the store away: what it sealed is then erased", ErrNoKEK, s.opts.KEKFile)
		}
	}
	if s.opts.ReadOnly {
		return nil
	}
	if damaged > 0 {
		s.opts.Logger.Warn("slots of the key store are damaged: if they held keys, what these sealed cannot be read", "slots", damaged)
	}
	if err := s.clear(stale); err != nil {
		return err
	}
	if len(keks) > 1 {
		return s.rewrapAll(keks[1])
	}
	return nil
}

// openStore opens and locks the file, and makes it when it is not there or was cut off while it was being made.
func (s *File) openStore(path string) ([]byte, error) {
	f, err := s.opts.fs.open(path, s.opts.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) && !s.opts.ReadOnly {
		f, err = s.opts.fs.create(path)
	}
	if err != nil {
		return nil, err
	}
	s.file = f
	free, err := f.lock(s.opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	if !free {
		return nil, ErrInUse
	}
	data, err := f.readAll()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(data, func(b byte) bool { return b != 0 }) && !s.opts.ReadOnly {
		data = append(encodeHead(""), make([]byte, growBy*slotSize)...)
		if _, err := f.WriteAt(data, 0); err != nil {
			return nil, err
		}
		if err := f.sync(); err != nil {
			return nil, err
		}
		if err := s.opts.fs.syncDir(path); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// load reads the slots. It returns second copies of keys, and the slots that are damaged.
func (s *File) load(data []byte) (copies []entry, stale []int, damaged int) {
	s.slots = len(data) / slotSize
	for i := range s.slots {
		w, used, free := decodeSlot(data[i*slotSize : (i+1)*slotSize])
		switch {
		case free:
			s.free = append(s.free, i)
		case !used:
			stale = append(stale, i)
			damaged++
		default:
			if _, twice := s.keys[w.id]; twice {
				copies = append(copies, entry{w, i})
			} else {
				s.keys[w.id] = entry{w, i}
			}
		}
	}
	return copies, stale, damaged
}

func (s *File) openKEK() ([]kek, error) {
	create := len(s.keys) == 0 && !s.opts.ReadOnly
	f, keks, err := openKEKs(s.opts.fs, s.opts.KEKFile, create, s.opts.ReadOnly)
	if err != nil {
		return nil, err
	}
	s.kekf = f
	return keks, nil
}

// Bind ties the store to a log, once, so that the keys of one cluster are never swept by the log of another. Errors: ErrForeign.
func (s *File) Bind(identity string) error {
	s.mu.RLock()
	bound := s.identity
	s.mu.RUnlock()
	switch {
	case bound == identity:
		return nil
	case bound != "":
		return fmt.Errorf("%w: it was made for log %s, this is %s; give each cluster a data directory of its own", ErrForeign, bound, identity)
	case s.opts.ReadOnly:
		return nil
	case identity == "" || len(identity) > maxIdentity:
		return fmt.Errorf("binding the key store: a log's identity has 1 to %d bytes, not %d", maxIdentity, len(identity))
	}
	return s.alone(func() error {
		if _, err := s.file.WriteAt(encodeHead(identity), 0); err != nil {
			return err
		}
		if err := s.file.sync(); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.identity = identity
		return nil
	})
}

// DataKey implements domain.Keys.
func (s *File) DataKey(id string) ([]byte, bool) {
	k, ok := parseKeyID(id)
	if !ok {
		return nil, false
	}
	s.mu.RLock()
	e, ok := s.keys[k]
	by := s.keks[e.kek]
	s.mu.RUnlock()
	if !ok || by.aead == nil {
		return nil, false
	}
	key, err := e.unwrap(by)
	if err != nil {
		s.opts.Logger.Error("a data key cannot be unwrapped: what it sealed cannot be read", "error", err)
		return nil, false
	}
	return key, true
}

// New implements Store.
func (s *File) New(ctx context.Context) (domain.DataKey, error) {
	if err := ctx.Err(); err != nil {
		return domain.DataKey{}, fmt.Errorf("making a data key: %w", err)
	}
	e := &entry{}
	plain := make([]byte, domain.DataKeySize)
	for _, b := range [][]byte{plain, e.id[:], e.nonce[:]} {
		if _, err := rand.Read(b); err != nil {
			return domain.DataKey{}, fmt.Errorf("making a data key: %w", err)
		}
	}
	// What has been queued is done whether somebody still waits or not; a sync is short.
	if err := s.do(&task{add: e, plain: plain}); err != nil {
		return domain.DataKey{}, fmt.Errorf("making a data key: %w", err)
	}
	return domain.DataKey{ID: e.id.text(), Key: plain}, nil
}

// Settle implements Store.
func (s *File) Settle(id string) {
	if k, ok := parseKeyID(id); ok {
		s.mu.Lock()
		delete(s.pending, k)
		s.mu.Unlock()
	}
}

// Destroy implements Store.
func (s *File) Destroy(_ context.Context, ids ...string) error {
	if s.opts.ReadOnly {
		return fmt.Errorf("destroying %d data keys: %w", len(ids), ErrReadOnly)
	}
	var slots []int
	s.mu.Lock()
	for _, id := range ids {
		k, _ := parseKeyID(id)
		e, ok := s.keys[k]
		if !ok {
			continue
		}
		delete(s.keys, k)
		delete(s.pending, k)
		if s.held > 0 {
			s.doomed = append(s.doomed, e)
		} else {
			slots = append(slots, e.slot)
		}
	}
	s.mu.Unlock()
	if len(slots) == 0 {
		return nil
	}
	// Whoever asked may have gone; the keys go all the same.
	if err := s.do(&task{clear: slots}); err != nil {
		return fmt.Errorf("destroying %d data keys: %w", len(slots), err)
	}
	return nil
}

// Sweep implements Store.
func (s *File) Sweep(ctx context.Context, inUse func() (map[string]bool, error)) (int, error) {
	s.mu.RLock()
	var candidates []string
	for id := range s.keys {
		if !s.pending[id] {
			candidates = append(candidates, id.text())
		}
	}
	s.mu.RUnlock()
	used, err := inUse()
	if err != nil {
		return 0, fmt.Errorf("sweeping the key store: %w", err)
	}
	orphans := slices.DeleteFunc(candidates, func(id string) bool { return used[id] })
	return len(orphans), s.Destroy(ctx, orphans...)
}

// Hold implements Store.
func (s *File) Hold() (release func()) {
	s.mu.Lock()
	s.held++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.held--
		var slots []int
		if s.held == 0 {
			for _, e := range s.doomed {
				slots = append(slots, e.slot)
			}
			s.doomed = nil
		}
		s.mu.Unlock()
		if len(slots) == 0 {
			return
		}
		if err := s.do(&task{clear: slots}); err != nil {
			s.opts.Logger.Error("destroying the data keys that a backup held; the next start does it", "keys", len(slots), "error", err)
		}
	})
}

// Copy implements Store.
func (s *File) Copy(w io.Writer) error {
	s.mu.RLock()
	out := encodeHead(s.identity)
	for _, e := range s.keys {
		out = append(out, e.encode()...)
	}
	for _, e := range s.doomed {
		out = append(out, e.encode()...)
	}
	s.mu.RUnlock()
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("copying the key store: %w", err)
	}
	return nil
}

// CopyKEK writes the key-encryption keys in the form of their own file. Who has this and a copy of the keys can read what is sealed.
func (s *File) CopyKEK(w io.Writer) error {
	s.mu.RLock()
	lines := [2][]byte{freeLine(), freeLine()}
	for _, k := range s.keks {
		lines[k.line] = k.encode()
	}
	s.mu.RUnlock()
	if _, err := w.Write(append(lines[0], lines[1]...)); err != nil {
		return fmt.Errorf("copying the key-encryption key: %w", err)
	}
	return nil
}

// IDs returns the ids of all keys, for those who want to try them (see internal/canary).
func (s *File) IDs() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := make([]string, 0, len(s.keys))
	for id := range s.keys {
		ids = append(ids, id.text())
	}
	return ids
}

// Len is how many keys there are.
func (s *File) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys)
}

// KEKFile is where the key-encryption key lies.
func (s *File) KEKFile() string { return s.opts.KEKFile }

// Close ends the store. What is waiting is carried out before.
func (s *File) Close() error {
	s.closing.Lock()
	if s.closed {
		s.closing.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.closing.Unlock()
	<-s.stopped
	return s.closeFiles()
}

func (s *File) closeFiles() error {
	var errs []error
	for _, f := range []file{s.file, s.kekf} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
