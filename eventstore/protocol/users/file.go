package users

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// lookEvery is how often a file is looked at for changes, at most.
const lookEvery = time.Second

// File is a file of users that is read again when it has changed. A change that does not parse is logged, and what was read
// before goes on to hold.
type File struct {
	path   string
	logger *slog.Logger
	now    func() time.Time

	mu     sync.Mutex
	set    *Set
	looked time.Time
	stamp  stamp
}

// stamp tells versions of a file apart.
type stamp struct {
	changed time.Time
	size    int64
}

// OpenFile reads a file of users.
func OpenFile(path string, logger *slog.Logger) (*File, error) {
	return openFile(path, logger, time.Now)
}

func openFile(path string, logger *slog.Logger, now func() time.Time) (*File, error) {
	f := &File{path: path, logger: logger, now: now, looked: now()}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) read() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("reading the users: %w", err)
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("reading the users: %w", err)
	}
	set, err := Parse(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("reading the users in %s: %w", f.path, err)
	}
	if set.Len() == 0 {
		return fmt.Errorf("reading the users in %s: there are none: add one with shiplog eventstore passwd --users %s %s", f.path, f.path, Admin)
	}
	f.set, f.stamp = set, stamp{info.ModTime(), info.Size()}
	return nil
}

// Users returns the users as the file has them now, give or take a second.
func (f *File) Users() *Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if now.Sub(f.looked) < lookEvery {
		return f.set
	}
	f.looked = now
	info, err := os.Stat(f.path)
	if err == nil && f.stamp == (stamp{info.ModTime(), info.Size()}) {
		return f.set
	}
	if err == nil {
		err = f.read()
	}
	if err != nil {
		f.logger.Error("the users did not change: their file cannot be used", "error", err)
	} else {
		f.logger.Info("read the users again", "file", f.path, "users", f.set.Len())
	}
	return f.set
}

// Put adds a user's line to a file, in place of the one that the user had. The file is made if there is none, readable by its
// owner alone.
func Put(path, line string) error {
	name, _, _ := strings.Cut(line, ":")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the users: %w", err)
	}
	var lines []string
	replaced := false
	for l := range strings.Lines(string(old)) {
		l = strings.TrimRight(l, "\r\n")
		if owner, _, _ := strings.Cut(strings.TrimSpace(l), ":"); owner == name {
			if replaced {
				continue
			}
			l, replaced = line, true
		}
		lines = append(lines, l)
	}
	if !replaced {
		lines = append(lines, line)
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return replace(path, []byte(strings.Join(lines, "\n")+"\n"), mode)
}

// replace writes a file that is never seen half written.
func replace(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".users-*")
	if err != nil {
		return fmt.Errorf("writing the users: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the users: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing the users: %w", err)
	}
	return nil
}
