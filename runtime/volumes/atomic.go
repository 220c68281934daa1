package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The names by which a volume of files changes all at once: its files are links through dataLink, which is swapped.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
)

// owner of a volume's files; a negative id is left as it is.
type owner struct{ uid, gid int }

// write makes the directory hold exactly these files. Readers see all old or all new ones: the files are in a directory of
// their own, reached through one link that is replaced by a rename. It does nothing when nothing changes.
func write(dir string, p payload, own owner) (changed bool, err error) {
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && same(filepath.Join(dir, old), p) {
		return false, nil
	}
	version, err := os.MkdirTemp(dir, "..v-")
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(version)
		}
	}()
	if err := os.Chmod(version, 0o755); err != nil {
		return false, err
	}
	for _, name := range p.sortedNames() {
		if err := writeOne(version, name, p[name], own); err != nil {
			return false, err
		}
	}
	tmp := filepath.Join(dir, dataLinkNew)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(version), tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	if err := link(dir, p); err != nil {
		return true, err
	}
	return true, sweep(dir, filepath.Base(version))
}

func writeOne(version, name string, f file, own owner) error {
	full := filepath.Join(version, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(full, f.data, 0o600); err != nil {
		return err
	}
	if own.gid >= 0 || f.token && own.uid >= 0 {
		uid := -1
		if f.token && own.gid < 0 {
			uid = own.uid
		}
		if err := os.Lchown(full, uid, own.gid); err != nil {
			return err
		}
	}
	return os.Chmod(full, fileMode(f, own))
}

// fileMode widens a mode so that the pod's group can read; a token is for its owner alone where it has one.
func fileMode(f file, own owner) os.FileMode {
	m := os.FileMode(f.mode) & os.ModePerm
	switch {
	case own.gid >= 0 && f.token:
		return 0o640
	case own.gid >= 0:
		return m | 0o440
	case f.token && own.uid >= 0:
		return 0o600
	}
	return m
}

func same(dir string, p payload) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, full)
		if err != nil {
			return err
		}
		f, ok := p[name]
		if !ok {
			return fs.SkipAll
		}
		have, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, f.data) {
			return fs.SkipAll
		}
		seen++
		return nil
	})
	return err == nil && seen == len(p)
}

// link makes what a reader sees at the top of the volume: a link a first path element, and no other.
func link(dir string, p payload) error {
	want := map[string]bool{}
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range have {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if !want[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		delete(want, e.Name())
	}
	for top := range want {
		if err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top)); err != nil {
			return fmt.Errorf("linking %s: %w", top, err)
		}
	}
	return nil
}

// sweep removes the versions that are no longer linked to.
func sweep(dir, current string) error {
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range have {
		if strings.HasPrefix(e.Name(), "..v-") && e.Name() != current {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
