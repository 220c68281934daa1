package keystore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// files is what the store needs of a file system; tests give one that fails and loses power.
type files interface {
	open(path string, readOnly bool) (file, error) // an error that is fs.ErrNotExist when there is none
	create(path string) (file, error)              // mode 0600; truncates what is there
	syncDir(path string) error                     // of the directory that holds the file
}

type file interface {
	io.WriterAt
	io.Closer
	readAll() ([]byte, error)
	sync() error                    // data, and what is needed to find it again
	lock(shared bool) (bool, error) // false: another process has it
}

type osFiles struct{}

func (osFiles) open(path string, readOnly bool) (file, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s can be read by others than its owner: chmod 600 it, and think of its keys as known", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osFile{f}, nil
}

func (osFiles) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFiles) syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

func (f osFile) readAll() ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(io.NewSectionReader(f, 0, info.Size()), data)
	return data, err
}

func (f osFile) sync() error { return unix.Fdatasync(int(f.Fd())) }

func (f osFile) lock(shared bool) (bool, error) {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
