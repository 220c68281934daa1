package embedded

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

// fuse is the file system under Pebble. It blows at the first sync that fails, and at the first failed write to the
// write-ahead log or the manifest; from then on it lets no change through, until the log is opened anew. After a failed
// fsync Linux marks the pages clean: trying again would report success for what is not on the disk.
type fuse struct {
	vfs.FS
	mu     sync.Mutex
	cause  error
	onBlow func(error)
}

func newFuse(fs vfs.FS, onBlow func(error)) *fuse { return &fuse{FS: fs, onBlow: onBlow} }

// blow refuses all changes from now on.
func (f *fuse) blow(cause error) {
	f.mu.Lock()
	first := f.cause == nil
	if first {
		f.cause = cause
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

func (f *fuse) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fusedDir{fusedFile{File: file, fuse: f, name: name}}, nil
}

// fusedDir is a directory of a fuse. When syncing it fails Pebble panics, in a goroutine of its own, where nobody can
// recover. So Pebble does not learn of it; since the fuse has blown, nothing that Pebble does afterwards reaches the disk and
// nothing is acknowledged.
type fusedDir struct{ fusedFile }

func (d *fusedDir) Sync() error {
	if d.fuse.blown() == nil {
		_ = d.fusedFile.Sync() // it blows the fuse
	}
	return nil
}

func (f *fuse) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	base := f.PathBase(name)
	isWAL := strings.HasSuffix(base, ".log")
	err := f.blown()
	var file vfs.File
	if err == nil {
		if file, err = open(); err != nil && isWAL {
			f.blow(fmt.Errorf("creating %s: %w", name, err))
		}
	}
	if isWAL {
		if err != nil {
			file = vfs.NewMemFile(nil) // nothing reaches it
		}
		return &fusedWAL{fusedFile{File: file, fuse: f, name: name, vital: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &fusedFile{File: file, fuse: f, name: name, vital: strings.HasPrefix(base, "MANIFEST")}, nil
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

func (f *fuse) Remove(name string) error { return f.change(func() error { return f.FS.Remove(name) }) }

func (f *fuse) RemoveAll(name string) error {
	return f.change(func() error { return f.FS.RemoveAll(name) })
}

func (f *fuse) change(change func() error) error {
	if err := f.blown(); err != nil {
		return err
	}
	return change()
}

// fusedFile is a file of a fuse.
type fusedFile struct {
	vfs.File
	fuse  *fuse
	name  string
	vital bool // a failed write, not only a failed sync, blows the fuse
}

// fusedWAL is a write-ahead log. Like a directory, it never tells Pebble of a failure: Pebble would end the process, or hold
// its locks for ever. Whoever commits asks the fuse.
type fusedWAL struct{ fusedFile }

func (w *fusedWAL) Write(p []byte) (int, error) {
	_, _ = w.fusedFile.Write(p)
	return len(p), nil
}

func (w *fusedWAL) Sync() error {
	_ = w.fusedFile.Sync()
	return nil
}

func (w *fusedWAL) SyncData() error {
	_ = w.fusedFile.SyncData()
	return nil
}

func (w *fusedWAL) SyncTo(length int64) (bool, error) {
	full, _ := w.fusedFile.SyncTo(length)
	return full, nil
}

func (w *fusedWAL) Close() error {
	if err := w.File.Close(); err != nil {
		w.fuse.blow(fmt.Errorf("closing %s: %w", w.name, err))
	}
	return nil
}

func (f *fusedFile) Write(p []byte) (int, error) {
	if err := f.fuse.blown(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	return n, f.wrote(err)
}

func (f *fusedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fuse.blown(); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	return n, f.wrote(err)
}

func (f *fusedFile) wrote(err error) error {
	if err != nil && f.vital {
		f.fuse.blow(fmt.Errorf("writing %s: %w", f.name, err))
	}
	return err
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
	if err := f.fuse.blown(); err != nil {
		return err
	}
	err := sync()
	if err != nil {
		f.fuse.blow(fmt.Errorf("syncing %s: %w", f.name, err))
	}
	return err
}
