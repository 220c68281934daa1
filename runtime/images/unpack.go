package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names by which a layer says that something of the layers below is gone (OCI image specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	overlayOpaque  = "trusted.overlay.opaque"
	paxXattr       = "SCHILY.xattr."
)

// unpack writes a layer's tar stream into dir in the form that overlayfs wants of a lower directory: whiteouts become
// character devices 0:0, opaque directories carry an attribute. Whatever names and links the stream holds, nothing outside
// dir is touched: every path is resolved by the kernel as if dir were the root (openat2, RESOLVE_IN_ROOT), and a last
// element is never followed.
func unpack(dir string, r io.Reader) error {
	root, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	u := &unpacker{root: root, parent: -1}
	defer u.close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading layer: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpacking %q: %w", h.Name, err)
		}
	}
	// A directory's time is set last: writing into it would change it again.
	for _, d := range u.dirs {
		if err := u.at(d.name, func(parent int, base string) error { return setTime(parent, base, d.time) }); err != nil {
			return fmt.Errorf("setting the time of %q: %w", d.name, err)
		}
	}
	return nil
}

type unpacker struct {
	root       int
	parent     int // an open directory, kept because entries of one directory follow each other
	parentName string
	dirs       []dirTime
}

type dirTime struct {
	name string
	time time.Time
}

func (u *unpacker) close() {
	if u.parent >= 0 {
		_ = unix.Close(u.parent)
	}
	_ = unix.Close(u.root)
}

// at calls f with the open parent directory of a path and its last element. Missing parents are made.
func (u *unpacker) at(name string, f func(parent int, base string) error) error {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if u.parent < 0 || u.parentName != dir {
		fd, err := u.openDir(dir)
		if err != nil {
			return err
		}
		if u.parent >= 0 {
			_ = unix.Close(u.parent)
		}
		u.parent, u.parentName = fd, dir
	}
	return f(u.parent, base)
}

var inRoot = uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS)

func (u *unpacker) openDir(dir string) (int, error) {
	open := func(p string) (int, error) {
		return unix.Openat2(u.root, p, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot})
	}
	p := strings.TrimPrefix(dir, "/")
	if p == "" {
		p = "."
	}
	fd, err := open(p)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := u.openDir(path.Dir(dir))
	if err != nil {
		return -1, err
	}
	err = unix.Mkdirat(parent, path.Base(dir), 0o755)
	_ = unix.Close(parent)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return open(p)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)
	if name == "/" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root is not a directory")
		}
		return u.rootEntry(h)
	}
	base := path.Base(name)
	switch {
	case base == opaqueMarker:
		return u.opaque(path.Dir(name))
	case strings.HasPrefix(base, whiteoutPrefix):
		gone := strings.TrimPrefix(base, whiteoutPrefix)
		if gone == "" || gone == "." || gone == ".." {
			return errors.New("a whiteout of nothing")
		}
		return u.at(path.Join(path.Dir(name), gone), func(parent int, base string) error {
			if err := remove(parent, base); err != nil {
				return err
			}
			return unix.Mknodat(parent, base, unix.S_IFCHR, 0)
		})
	}
	return u.at(name, func(parent int, base string) error { return u.create(parent, base, name, h, content) })
}

func (u *unpacker) rootEntry(h *tar.Header) error {
	fd, err := unix.Openat(u.root, ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode(h))
}

func (u *unpacker) opaque(dir string) error {
	fd, err := u.openDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return setxattr(fd, ".", overlayOpaque, []byte("y"))
}

func (u *unpacker) create(parent int, base, name string, h *tar.Header, content io.Reader) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		// A later entry replaces an earlier one; a directory over a directory only changes its attributes.
		if h.Typeflag != tar.TypeDir || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := remove(parent, base); err != nil {
				return err
			}
			u.forget(name)
		}
	}
	perm := mode(h)
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(parent, base, perm); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		u.dirs = append(u.dirs, dirTime{name, h.ModTime})
	case tar.TypeReg, '\x00':
		if err := writeFile(parent, base, perm, content); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.hardlink(parent, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(parent, base, kind|perm, int(dev)); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("entry of unknown type %q", h.Typeflag)
	}
	return attributes(parent, base, h)
}

// forget drops what is remembered of a directory that is no longer there.
func (u *unpacker) forget(name string) {
	kept := u.dirs[:0]
	for _, d := range u.dirs {
		if d.name != name && !strings.HasPrefix(d.name, name+"/") {
			kept = append(kept, d)
		}
	}
	u.dirs = kept
}

func (u *unpacker) hardlink(parent int, base, target string) error {
	dir, file := path.Split(path.Clean("/" + target))
	fd, err := u.openDir(path.Clean(dir))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Linkat(fd, file, parent, base, 0)
}

// attributes sets owner, mode, extended attributes and time: the owner first, because it clears set-id bits and capabilities.
func attributes(parent int, base string, h *tar.Header) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, mode(h), 0); err != nil {
			return err
		}
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") {
			continue // a layer may not speak to overlayfs but by whiteouts
		}
		if err := setxattr(parent, base, attr, []byte(value)); err != nil &&
			!errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return setTime(parent, base, h.ModTime)
}

func writeFile(parent int, base string, perm uint32, content io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// setxattr sets an attribute of an entry of an open directory, without following a link.
func setxattr(parent int, base, attr string, value []byte) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), attr, value, 0)
}

func setTime(parent int, base string, t time.Time) error {
	if t.Before(time.Unix(0, 0)) {
		t = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

// remove deletes an entry of an open directory with all below it, following no link.
func remove(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := remove(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}
