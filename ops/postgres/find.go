package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// ErrNotInstalled says that no Postgres was found on this machine.
var ErrNotInstalled = errors.New("no Postgres server is installed: install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server), " +
	"or give the address of a running one with --postgres")

// install is one installed Postgres.
type install struct {
	major int
	bin   string // the directory of postgres and initdb
}

// installsIn lists the installed servers below the roots, newest first; pattern is where a distribution puts them.
func installsIn(patterns []string, path string) []install {
	var found []install
	seen := map[string]bool{}
	add := func(bin string) {
		if seen[bin] || !executable(filepath.Join(bin, "postgres")) || !executable(filepath.Join(bin, "initdb")) {
			return
		}
		seen[bin] = true
		if major, err := majorOf(filepath.Join(bin, "postgres")); err == nil {
			found = append(found, install{major, bin})
		}
	}
	for _, p := range patterns {
		dirs, _ := filepath.Glob(p) // the only error is a malformed pattern
		for _, d := range dirs {
			add(d)
		}
	}
	for _, d := range filepath.SplitList(path) {
		add(d)
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
	return found
}

func installs() []install { return installsIn(usualPlaces(), os.Getenv("PATH")) }

// usualPlaces are where distributions put servers.
func usualPlaces() []string {
	return []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql*/bin"}
}

// installed says whether there is a server at all, without asking it for its version.
func installed() bool {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, p := range usualPlaces() {
		more, _ := filepath.Glob(p) // the only error is a malformed pattern
		dirs = append(dirs, more...)
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return executable(filepath.Join(dir, "postgres")) && executable(filepath.Join(dir, "initdb"))
	})
}

// choose picks the server for a directory: the one that wrote it if it is installed, else the newest. fresh says that the
// directory's content is of no use to the one chosen.
func choose(found []install, dirMajor int) (chosen install, fresh bool, err error) {
	if len(found) == 0 {
		return install{}, false, ErrNotInstalled
	}
	for _, i := range found {
		if i.major == dirMajor {
			return i, false, nil
		}
	}
	return found[0], dirMajor != 0, nil
}

// majorOfDir reads which server wrote a directory, 0 if none did.
func majorOfDir(data string) int {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// majorOf asks a server for its version: "postgres (PostgreSQL) 15.7 (Debian 15.7-0+deb12u1)".
func majorOf(postgres string) (int, error) {
	out, err := exec.Command(postgres, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("asking %s for its version: %w", postgres, err)
	}
	fields := strings.Fields(string(out))
	for i, f := range fields {
		if f == "(PostgreSQL)" && i+1 < len(fields) {
			digits := fields[i+1]
			if cut := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); cut >= 0 {
				digits = digits[:cut]
			}
			return strconv.Atoi(digits)
		}
	}
	return 0, fmt.Errorf("asking %s for its version: cannot read %q", postgres, out)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
