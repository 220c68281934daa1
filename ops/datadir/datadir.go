// Package datadir keeps a cluster's data directory: who holds it, and which version wrote it.
//
//	version           the layout's version, one number
//	lock              held by the running process (flock); holds its pid
//	log/              the embedded log, or
//	eventstore        the connection string of the event store that keeps the log
//	keys/             the keys of sealed payloads, and the key that wraps them
//	snapshots/        what a start reads instead of all of the log; made anew when removed
//	postgres/         the private Postgres
//	pki/              certificates and keys
//	restoring/        what a restore that has not ended has made so far: nothing starts while it is there
//	node/             the node agent: images, containers, its copy of what concerns it
//	admin.kubeconfig  the administrator's way in
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Version of the layout that this build writes and reads.
const Version = 1

// Where things lie in the directory.
const (
	Log       = "log"
	PKI       = "pki"
	Keys      = "keys" // the key store of sealed payloads
	Restoring = "restoring"
)

// KeyDirs are the directories whose files make a restored log the same cluster again.
var KeyDirs = []string{PKI, Keys}

// Dir is a data directory that this process holds.
type Dir struct {
	path string
	lock *os.File
}

// InUseError says that another process holds the directory.
type InUseError struct {
	Path string
	Pid  int // 0 when unknown
}

func (e *InUseError) Error() string {
	if e.Pid == 0 {
		return fmt.Sprintf("the data directory %s is in use by another process: stop it first (`shiplog down --data-dir %s`), or choose another directory", e.Path, e.Path)
	}
	return fmt.Sprintf("the data directory %s is in use by process %d: stop it first (`shiplog down --data-dir %s`), or choose another directory", e.Path, e.Pid, e.Path)
}

// Open creates the directory if need be, checks its version and takes hold of it. Errors: *InUseError when another process
// holds it; an error that says what to do when another version wrote it.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// Others may pass through (Postgres runs as a user of its own) but not look around; what is inside has modes of its own.
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, fmt.Errorf("creating the data directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(path, Restoring)); err == nil {
		return nil, fmt.Errorf("the data directory %s holds a restore that was cut off: delete what is in it and restore again", path)
	}
	if err := checkVersion(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := Holder(path)
			return nil, &InUseError{Path: path, Pid: pid}
		}
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	d := &Dir{path: path, lock: lock}
	if err := d.begin(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) begin() error {
	if err := os.WriteFile(d.Join("version"), fmt.Appendf(nil, "%d\n", Version), 0o644); err != nil {
		return fmt.Errorf("writing the data directory's version: %w", err)
	}
	if err := d.lock.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if _, err := d.lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	return nil
}

func checkVersion(path string) error {
	data, err := os.ReadFile(filepath.Join(path, "version"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the data directory's version: %w", err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s holds no number: is %s a data directory of shiplog?", filepath.Join(path, "version"), path)
	}
	if version > Version {
		return fmt.Errorf("the data directory %s was written by a newer shiplog (layout %d, this build knows %d): use that version, or choose another directory", path, version, Version)
	}
	return nil
}

// Path of the directory, absolute.
func (d *Dir) Path() string { return d.path }

// Join names a file in the directory.
func (d *Dir) Join(elem ...string) string { return filepath.Join(append([]string{d.path}, elem...)...) }

// Close lets the directory go.
func (d *Dir) Close() error { return d.lock.Close() }

// Holder returns the pid of the process that holds a directory, or false when none does.
func Holder(path string) (int, bool) {
	lock, err := os.Open(filepath.Join(path, "lock"))
	if err != nil {
		return 0, false
	}
	defer lock.Close()
	// Asking for a shared lock answers whether somebody holds the exclusive one; it is given back by closing the file.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, false
	}
	data := make([]byte, 32)
	n, _ := lock.Read(data) // a lock without a readable pid is held all the same
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data[:n])))
	return pid, true
}
