package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

// fuse is the file system under Pebble. It blows at the first sync that fails, and at the first failed write to the
// write-ahead log or the manifest; from then on it lets no change through, until the log is opened anew. After a failed
// fsync Linux marks the pages clean: trying again would report success for what is not on the disk.
//
// Pebble ends the process, or breaks its own state, when such a failure reaches it. So it does not learn of it: whoever
// commits asks the fuse, and Pebble's background work is halted at its next change of a file. What is in memory and on disk
// stays as it is, to be read from.
type fuse struct {
	vfs.FS
	mu     sync.Mutex
	cause  error
	gone   chan struct{} // closed when it blows
	armed  atomic.Bool   // Pebble is open: who changes a file now, other than a write-ahead log, is one of its own goroutines
	onBlow func(error)
}

func newFuse(fs vfs.FS, onBlow func(error)) *fuse {
	return &fuse{FS: fs, gone: make(chan struct{}), onBlow: onBlow}
}

// blow refuses all changes from now on.
func (f *fuse) blow(cause error) {
	f.mu.Lock()
	first := f.cause == nil
	if first {
		f.cause = cause
		close(f.gone)
	}
	f.mu.Unlock()
	if first {
		f.onBlow(cause)
	}
}

// blown returns why changes are refused, nil while they are not.
func (f *fuse) blown() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		return nil
	}
	return fmt.Errorf("%w: writing to disk failed earlier, restart to recover: %w", eventstore.ErrUnavailable, f.cause)
}

// await does what may have to wait for Pebble's background work. That is halted for good when the fuse blows: await then leaves it
// behind, and returns why.
func (f *fuse) await(do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-f.gone:
		return f.blown()
	}
}

// refusal is blown for Pebble's background work: when the fuse has blown it stops there for good, and Pebble starts no other in its
// place. It holds no lock that a reader needs while it changes a file, but those that Pebble wants for its own
// book-keeping: see await. Ending the goroutine would run what it has deferred, and
// a compaction panics when it is ended with blocks in use.
func (f *fuse) refusal() error {
	err := f.blown()
	if err != nil && f.armed.Load() {
		select {}
	}
	return err
}

// Lock is answered here: the log holds a lock of its own on the directory above (see lock.go), which it can give back even
// when Pebble cannot be closed any more.
func (f *fuse) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (f *fuse) Unwrap() vfs.FS { return f.FS }

func (f *fuse) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fuse) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f *fuse) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f *fuse) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	base := f.PathBase(name)
	if strings.HasSuffix(base, ".log") {
		return f.openWAL(name, open), nil
	}
	if err := f.refusal(); err != nil {
		return nil, err
	}
	if err := f.beforeMarker(name); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	return &fusedFile{File: file, fuse: f, name: name, vital: strings.HasPrefix(base, "MANIFEST")}, nil
}

func (f *fuse) openWAL(name string, open func() (vfs.File, error)) vfs.File {
	if f.blown() == nil {
		file, err := open()
		if err == nil {
			return &fusedWAL{file: file, fuse: f, name: name}
		}
		f.blow(fmt.Errorf("creating %s: %w", name, err))
	}
	return &fusedWAL{file: vfs.NewMemFile(nil), fuse: f, name: name} // nothing reaches it
}

func (f *fuse) Link(oldname, newname string) error {
	return f.change(func() error { return f.FS.Link(oldname, newname) })
}

func (f *fuse) Rename(oldname, newname string) error {
	return f.change(func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fuse) MkdirAll(dir string, perm os.FileMode) error {
	return f.change(func() error { return f.FS.MkdirAll(dir, perm) })
}

func (f *fuse) Remove(name string) error {
	return f.change(func() error {
		if err := f.beforeMarker(name); err != nil {
			return err
		}
		return f.FS.Remove(name)
	})
}

// beforeMarker syncs the directory of a marker, the file whose name says which manifest counts, ahead of a change of it. Pebble
// syncs once, after it has created the manifest, created the new marker and removed the old one. A file system may keep
// these in any order until then, and a power failure would leave a marker without its manifest, or none.
func (f *fuse) beforeMarker(name string) error {
	if !strings.HasPrefix(f.PathBase(name), "marker.") {
		return nil
	}
	if err := syncDir(f.FS, f.PathDir(name)); err != nil {
		f.blow(err)
		return f.refusal()
	}
	return nil
}

func (f *fuse) RemoveAll(name string) error {
	return f.change(func() error { return f.FS.RemoveAll(name) })
}

func (f *fuse) change(change func() error) error {
	if err := f.refusal(); err != nil {
		return err
	}
	return change()
}

func (f *fuse) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fusedDir{File: file, fuse: f, name: name}, nil
}

// fusedDir is a directory of a fuse.
type fusedDir struct {
	vfs.File
	fuse *fuse
	name string
}

// Sync never fails; see fuse.
func (d *fusedDir) Sync() error {
	if d.fuse.blown() == nil {
		if err := d.File.Sync(); err != nil {
			d.fuse.blow(fmt.Errorf("syncing %s: %w", d.name, err))
		}
	}
	return nil
}

// fusedFile is a table, a manifest or the like.
type fusedFile struct {
	vfs.File
	fuse  *fuse
	name  string
	vital bool // a failed write, not only a failed sync, blows the fuse
}

func (f *fusedFile) Write(p []byte) (int, error) {
	if err := f.fuse.refusal(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	if err != nil && f.vital {
		return n, f.failed("writing", err)
	}
	return n, err
}

func (f *fusedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *fusedFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *fusedFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

func (f *fusedFile) sync(sync func() error) error {
	if err := f.fuse.refusal(); err != nil {
		return err
	}
	if err := sync(); err != nil {
		return f.failed("syncing", err)
	}
	return nil
}

func (f *fusedFile) failed(what string, err error) error {
	f.fuse.blow(fmt.Errorf("%s %s: %w", what, f.name, err))
	return errors.Join(f.fuse.refusal(), err)
}

// fusedWAL is a write-ahead log. No call fails; see fuse.
type fusedWAL struct {
	file vfs.File
	fuse *fuse
	name string
}

func (w *fusedWAL) do(what string, do func() error) {
	if w.fuse.blown() != nil {
		return
	}
	if err := do(); err != nil {
		w.fuse.blow(fmt.Errorf("%s %s: %w", what, w.name, err))
	}
}

func (w *fusedWAL) Write(p []byte) (int, error) {
	w.do("writing", func() error {
		_, err := w.file.Write(p)
		return err
	})
	return len(p), nil
}

func (w *fusedWAL) WriteAt(p []byte, off int64) (int, error) {
	w.do("writing", func() error {
		_, err := w.file.WriteAt(p, off)
		return err
	})
	return len(p), nil
}

func (w *fusedWAL) Sync() error {
	w.do("syncing", w.file.Sync)
	return nil
}

func (w *fusedWAL) SyncData() error {
	w.do("syncing", w.file.SyncData)
	return nil
}

func (w *fusedWAL) SyncTo(length int64) (full bool, _ error) {
	w.do("syncing", func() (err error) {
		full, err = w.file.SyncTo(length)
		return err
	})
	return full, nil
}

func (w *fusedWAL) Close() error {
	if err := w.file.Close(); err != nil {
		w.fuse.blow(fmt.Errorf("closing %s: %w", w.name, err))
	}
	return nil
}

func (w *fusedWAL) Read(p []byte) (int, error)              { return w.file.Read(p) }
func (w *fusedWAL) ReadAt(p []byte, off int64) (int, error) { return w.file.ReadAt(p, off) }
func (w *fusedWAL) Preallocate(offset, length int64) error  { return w.file.Preallocate(offset, length) }

func (w *fusedWAL) Prefetch(offset int64, length int64) error { return w.file.Prefetch(offset, length) }
func (w *fusedWAL) Stat() (vfs.FileInfo, error)               { return w.file.Stat() }
func (w *fusedWAL) Fd() uintptr                               { return w.file.Fd() }
