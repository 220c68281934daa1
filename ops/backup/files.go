package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Stdio is the name of a file that stands for standard input or output.
const Stdio = "-"

// ErrExists says that a file or directory that would be written is there already.
var ErrExists = errors.New("it exists already")

// Create writes a file under a name of its own, and gives it its name once it is written and on disk: there is never half a file
// of that name. The name must be free.
func Create(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w: choose another name; nothing is overwritten", path, ErrExists)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".partial-*")
	if err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	if err := write(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("writing %s to disk: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("naming %s: %w", path, err)
	}
	return errors.Join(file.Close(), syncDir(filepath.Dir(path)))
}

// Open opens a backup for reading; Stdio is standard input.
func Open(path string, stdin io.Reader) (io.ReadCloser, error) {
	if path == Stdio {
		return io.NopCloser(stdin), nil
	}
	return os.Open(path)
}

func writeFile(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func cutPath(name string) (top, rest string, found bool) { return strings.Cut(name, "/") }
