package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func fakeInstall(t *testing.T, dir, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", program, version)
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInstalls(t *testing.T) {
	root := t.TempDir()
	fakeInstall(t, root+"/9/bin", "9.6.24")
	fakeInstall(t, root+"/13/bin", "13.14 (Debian 13.14-1)")
	inPath := fakeInstall(t, root+"/other", "17rc1")
	if err := os.MkdirAll(root+"/16/bin", 0o755); err != nil { // only the client is installed
		t.Fatal(err)
	}
	found := installsIn([]string{root + "/*/bin"}, inPath+":"+root+"/nowhere")
	var majors []int
	for _, i := range found {
		majors = append(majors, i.major)
	}
	if fmt.Sprint(majors) != "[17 13 9]" {
		t.Errorf("found %v", found)
	}
	for _, c := range []struct {
		dir, chosen int
		fresh       bool
	}{{0, 17, false}, {13, 13, false}, {15, 17, true}} {
		got, fresh, err := choose(found, c.dir)
		if err != nil || got.major != c.chosen || fresh != c.fresh {
			t.Errorf("for a directory of version %d: %d, fresh %v, %v; want %d, %v", c.dir, got.major, fresh, err, c.chosen, c.fresh)
		}
	}
	if _, _, err := choose(nil, 0); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("without any: %v", err)
	}
}

func TestOnlyOurOwnDirectoriesAreOpened(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test has to be run as root: it is about running Postgres as another user")
	}
	id, err := whoRuns("")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, d := range []string{root, filepath.Dir(root)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	theirs := filepath.Join(root, "theirs")
	dir := filepath.Join(theirs, "cluster", "postgres")
	for d, mode := range map[string]os.FileMode{dir: 0o711} {
		if err := os.MkdirAll(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	for d, mode := range map[string]os.FileMode{theirs: 0o700, filepath.Dir(dir): 0o700} {
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	barred, err := id.openWay(dir)
	if err != nil || barred != theirs {
		t.Errorf("barred by %q, %v; want %q", barred, err, theirs)
	}
	for d, want := range map[string]os.FileMode{theirs: 0o700, filepath.Dir(dir): 0o701} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", d, info.Mode(), err, want)
		}
	}
}
