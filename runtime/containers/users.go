package containers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// User is who a container's process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // the user's further groups
	Home     string
	// Name is set where the user was asked for by a name.
	Name string
}

// ErrNoUser says that an image knows no user or group of a name.
var ErrNoUser = errors.New("unknown user")

// ResolveUser finds out who "user", "user:group", "uid" or "uid:gid" is, as an image's configuration has it, by the
// contents of the image's /etc/passwd and /etc/group. The empty string is root.
func ResolveUser(spec, passwd, group string) (User, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	u := User{Home: "/"}
	if name == "" {
		name = "0"
	}
	uid, numeric := parseID(name)
	found := false
	eachLine(passwd, 7, func(f []string) bool {
		id, ok := parseID(f[2])
		if !ok || (f[0] != name && (!numeric || id != uid)) {
			return true
		}
		gid, _ := parseID(f[3])
		u.UID, u.GID, u.Home, found = id, gid, f[5], true
		u.Name = f[0]
		return false
	})
	if !found {
		if !numeric {
			return User{}, fmt.Errorf("%w: the image's /etc/passwd has no %q", ErrNoUser, name)
		}
		u.UID = uid
	}
	login := u.Name
	if numeric {
		u.Name = ""
	}
	if hasGroup && groupName != "" {
		gid, numericGroup := parseID(groupName)
		foundGroup := false
		eachLine(group, 3, func(f []string) bool {
			if f[0] == groupName {
				gid, foundGroup = first(parseID(f[2])), true
				return false
			}
			return true
		})
		if !foundGroup && !numericGroup {
			return User{}, fmt.Errorf("%w: the image's /etc/group has no %q", ErrNoUser, groupName)
		}
		u.GID = gid
		return u, nil
	}
	if login != "" {
		eachLine(group, 4, func(f []string) bool {
			for _, member := range strings.Split(f[3], ",") {
				if member == login {
					if gid, ok := parseID(f[2]); ok && gid != u.GID {
						u.Groups = append(u.Groups, gid)
					}
				}
			}
			return true
		})
	}
	return u, nil
}

func first(id uint32, _ bool) uint32 { return id }

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func eachLine(file string, fields int, f func([]string) bool) {
	lines := bufio.NewScanner(strings.NewReader(file))
	for lines.Scan() {
		parts := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(parts) >= fields && !f(parts) {
			return
		}
	}
}

// readInRoot returns the content of a file of a root file system, "" when it is not there; no link leads out of the root.
func readInRoot(root, name string) (string, error) {
	dir, err := unix.Open(root, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", root, err)
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", filepath.Join(root, name), err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", filepath.Join(root, name), err)
	}
	return string(data), nil
}
