package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

const (
	lockFile   = "LOCK"   // locked as long as the log is open
	pidFile    = "PID"    // who holds the lock, for people
	formatFile = "FORMAT" // the version of the layout; it is written once the rest is there
	dbDir      = "db"     // Pebble's files

	formatName = "shiplog-log"
	format     = 2 // 1 has no hash chain (see upgrade.go)
)

// lockDir makes sure that no other process uses the directory. The error names the one that does, when that is known.
func lockDir(fs vfs.FS, dir string, readOnly bool) (io.Closer, error) {
	lock, err := fs.Lock(fs.PathJoin(dir, lockFile))
	if err != nil {
		if pid, perr := readFile(fs, fs.PathJoin(dir, pidFile)); inUse(err) {
			holder := ""
			if pid := strings.TrimSpace(string(pid)); perr == nil && pid != "" {
				holder = " (process " + pid + ")"
			}
			return nil, fmt.Errorf("%w: %s is held%s: stop it first, or give another directory", eventstore.ErrLocked, dir, holder)
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if !readOnly {
		// Only for the message above, so it need not be synced.
		if err := writeFile(fs, fs.PathJoin(dir, pidFile), []byte(strconv.Itoa(os.Getpid())+"\n"), false); err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), lock.Close())
		}
	}
	return lock, nil
}

// inUse tells a lock that is held from a lock that could not be tried.
func inUse(err error) bool {
	return errors.Is(err, syscall.EAGAIN) ||
		strings.Contains(err.Error(), "lock held by current process") || errors.Is(err, os.ErrExist)
}

// readFormat reads the directory's format, 0 for a directory that holds no log yet.
func readFormat(fs vfs.FS, dir string) (version int, err error) {
	data, err := readFile(fs, fs.PathJoin(dir, formatFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the log's format: %w", err)
	}
	var name string
	if _, err := fmt.Sscanf(string(data), "%s %d\n", &name, &version); err != nil || name != formatName || version < 1 {
		return 0, fmt.Errorf("%w: %s holds %q, which names no format: restore the directory from a backup",
			eventstore.ErrCorrupt, fs.PathJoin(dir, formatFile), data)
	}
	if version > format {
		return 0, fmt.Errorf("%w: %s holds a log of format %d, this build reads up to format %d: use the build that wrote it, or a newer one",
			eventstore.ErrVersion, dir, version, format)
	}
	return version, nil
}

func writeFormat(fs vfs.FS, dir string) error {
	name := fs.PathJoin(dir, formatFile)
	if err := writeFile(fs, name+".new", fmt.Appendf(nil, "%s %d\n", formatName, format), true); err != nil {
		return fmt.Errorf("writing the log's format: %w", err)
	}
	if err := fs.Rename(name+".new", name); err != nil {
		return fmt.Errorf("writing the log's format: %w", err)
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}

func writeFile(fs vfs.FS, name string, data []byte, sync bool) error {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
