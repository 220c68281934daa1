package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"sync"
)

var errDisk = errors.New("the disk fails")

// disk is a file system in memory that loses power: what has not been synced is then kept or lost sector by sector, as drawn.
type disk struct {
	mu     sync.Mutex
	files  map[string]*diskFile
	calls  int
	failAt int // the call that fails, and all after it; 0: none
	writes int
	syncs  int
}

const sector = 512

// diskFile has what is on the disk and what the operating system would give to a reader. durable is nil until its directory was synced.
type diskFile struct {
	disk         *disk
	path         string
	now, durable []byte
	linked       bool // the directory entry is durable
	locked       bool
}

func newDisk() *disk { return &disk{files: map[string]*diskFile{}} }

func (d *disk) step() error {
	d.calls++
	if d.failAt > 0 && d.calls >= d.failAt {
		return errDisk
	}
	return nil
}

func (d *disk) open(path string, _ bool) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.files[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return f, nil
}

func (d *disk) create(path string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return nil, err
	}
	f := &diskFile{disk: d, path: path}
	d.files[path] = f
	return f, nil
}

func (d *disk) syncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if f, ok := d.files[path]; ok {
		f.linked = true
	}
	return nil
}

func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step(); err != nil {
		return 0, err
	}
	f.disk.writes++
	if grown := int(at) + len(b); grown > len(f.now) {
		f.now = append(f.now, make([]byte, grown-len(f.now))...)
	}
	copy(f.now[at:], b)
	return len(b), nil
}

func (f *diskFile) readAll() ([]byte, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return bytes.Clone(f.now), nil
}

func (f *diskFile) sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step(); err != nil {
		return err
	}
	f.disk.syncs++
	f.durable = bytes.Clone(f.now)
	return nil
}

func (f *diskFile) lock(bool) (bool, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.locked {
		return false, nil
	}
	f.locked = true
	return true, nil
}

func (f *diskFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.locked = false
	return nil
}

// losePower returns the disk as it is found afterwards.
func (d *disk) losePower(r *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newDisk()
	for path, f := range d.files {
		if !f.linked && r.Intn(2) == 0 {
			continue
		}
		size := len(f.durable)
		if len(f.now) > size && r.Intn(2) == 0 {
			size = len(f.now)
		}
		content := make([]byte, size)
		copy(content, f.durable)
		for i := 0; i < size; i += sector {
			if r.Intn(2) == 0 {
				copy(content[i:min(i+sector, size)], f.now[i:])
			}
		}
		next.files[path] = &diskFile{disk: next, path: path, now: content, durable: bytes.Clone(content), linked: true}
	}
	return next
}

// holds tells whether bytes are to be found on the disk, synced or not.
func (d *disk) holds(needle []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		if bytes.Contains(f.now, needle) || bytes.Contains(f.durable, needle) {
			return true
		}
	}
	return false
}

func (d *disk) String() string {
	s := ""
	for path, f := range d.files {
		s += fmt.Sprintf("%s: %d bytes, %d synced; ", path, len(f.now), len(f.durable))
	}
	return s
}
