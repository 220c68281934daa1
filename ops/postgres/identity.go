package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// identity is whom the server runs as.
type identity struct {
	uid, gid int
	name     string
	drop     bool // we are root and the server is not
}

// whoRuns returns whom the server is to run as: us, unless we are root.
func whoRuns(wanted string) (identity, error) {
	if os.Geteuid() != 0 {
		return identity{uid: os.Geteuid(), gid: os.Getegid(), name: strconv.Itoa(os.Geteuid())}, nil
	}
	candidates := []string{"postgres", "nobody"}
	if wanted != "" {
		candidates = []string{wanted}
	}
	for _, c := range candidates {
		u, err := user.Lookup(c)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return identity{}, fmt.Errorf("looking up user %s: %w", c, err)
		}
		if uid == 0 {
			continue
		}
		return identity{uid: uid, gid: gid, name: c, drop: true}, nil
	}
	return identity{}, fmt.Errorf("a Postgres does not run as root, and none of the users %s exists: create one (useradd --system postgres)",
		strings.Join(candidates, ", "))
}

// mayTraverse says whether the identity may pass through a directory.
func (id identity) mayTraverse(info os.FileInfo) bool {
	if !id.drop && id.uid == 0 {
		return true
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) == id.uid:
		return mode&0o100 != 0
	case int(st.Gid) == id.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}

// openWay lets the identity reach dir: dir and its parent, which are the cluster's own, become passable (not readable) for
// others; what lies in them keeps its own modes. It returns the first directory further up that bars the way, or "".
func (id identity) openWay(dir string) (barred string, err error) {
	if !id.drop {
		return "", nil
	}
	own := map[string]bool{dir: true, filepath.Dir(dir): true}
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return "", fmt.Errorf("opening the way to %s: %w", dir, err)
		}
		if !id.mayTraverse(info) {
			if own[d] {
				if err := os.Chmod(d, info.Mode().Perm()|0o001); err != nil {
					return "", fmt.Errorf("opening the way to %s: %w", dir, err)
				}
			} else {
				barred = d
			}
		}
		if d == filepath.Dir(d) {
			return barred, nil
		}
	}
}

// ownDir makes a directory that belongs to the identity alone.
func (id identity) ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if id.drop {
		if err := os.Chown(dir, id.uid, id.gid); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o700)
}

// runtimeDir is a short path for the socket (its name may have 107 bytes at most) and for a bind mount, the same whenever it is
// asked for the same directory.
func (id identity) runtimeDir(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	name := "shiplog-postgres-" + hex.EncodeToString(sum[:6])
	if id.drop {
		return filepath.Join("/run", name)
	}
	return filepath.Join(os.TempDir(), name+"-"+strconv.Itoa(id.uid))
}
