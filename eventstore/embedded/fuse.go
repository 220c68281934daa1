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
	return &fusedFile{File: file, fuse: f, name: name}, nil
}

func (f *fuse) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	if err := f.blown(); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	base := f.PathBase(name)
	return &fusedFile{
		File: file, fuse: f, name: name,
		vital: strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST"),
	}, nil
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
