package users

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func line(t *testing.T, name, password string, groups ...string) string {
	t.Helper()
	l, err := Line(name, password, groups, bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func parse(t *testing.T, lines ...string) *Set {
	t.Helper()
	s, err := Parse(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerify(t *testing.T) {
	s := parse(t, "# people", "", line(t, "admin", "secret"), line(t, "ops", "o"), line(t, "ann", "a", "readers", "writers"))
	for name, c := range map[string]struct {
		user, password string
		roles, not     []string
		refused        bool
	}{
		"the administrator":           {user: "admin", password: "secret", roles: []string{Admins, "admin", Everybody}, not: []string{Operations}},
		"the operator":                {user: "ops", password: "o", roles: []string{Operations, "ops"}, not: []string{Admins}},
		"somebody with groups":        {user: "ann", password: "a", roles: []string{"readers", "writers", "ann"}, not: []string{Admins, "bob"}},
		"a wrong password":            {user: "admin", password: "Secret", refused: true},
		"another's password":          {user: "admin", password: "a", refused: true},
		"an empty password":           {user: "admin", refused: true},
		"somebody who is not there":   {user: "bob", password: "secret", refused: true},
		"nobody":                      {refused: true},
		"a name that swallows a part": {user: "admin\x00se", password: "cret", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, when := range []string{"the first time", "again"} {
				u, ok := s.Verify(c.user, c.password)
				if ok == c.refused {
					t.Fatalf("%s: got %v", when, ok)
				}
				for _, role := range c.roles {
					if !u.Is(role) {
						t.Errorf("%s: %+v is not %s", when, u, role)
					}
				}
				for _, role := range c.not {
					if u.Is(role) {
						t.Errorf("%s: %+v is %s", when, u, role)
					}
				}
			}
		})
	}
	// A right password is remembered without being kept, and a wrong one does not make it forgotten.
	if _, ok := s.Verify("admin", "wrong"); ok {
		t.Error("a wrong password was taken")
	}
	if !s.remembers("admin", s.digest("admin", "secret")) || s.remembers("admin", s.digest("admin", "wrong")) {
		t.Error("the right password alone should be remembered")
	}
	if anybody := (User{}); anybody.Is("") || anybody.Is(Admins) || !anybody.Is(Everybody) {
		t.Error("anybody is only one of everybody")
	}
}

func TestFilesThatDoNotParse(t *testing.T) {
	good := line(t, "ann", "a")
	for name, text := range map[string]string{
		"no hash":           "ann",
		"a plain password":  "ann:secret",
		"another hash":      "ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
		"no name":           good[3:],
		"a name with space": "a nn" + good[3:],
		"a group's name":    "$admins" + good[3:],
		"twice":             good + "\n" + good,
		"too many fields":   good + ":a:b",
	} {
		if _, err := Parse(strings.NewReader("# \n" + text)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestLinesThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		user, password string
		groups         []string
	}{
		"no password":       {user: "ann"},
		"a long password":   {user: "ann", password: strings.Repeat("x", 73)},
		"a name with colon": {user: "a:b", password: "x"},
		"a group with two":  {user: "a", password: "x", groups: []string{"a,b"}},
	} {
		if l, err := Line(c.user, c.password, c.groups, bcrypt.MinCost); err == nil {
			t.Errorf("%s: got %s", name, l)
		}
	}
}

func TestFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	now := time.Unix(1000, 0)
	quiet := slog.New(slog.DiscardHandler)
	if _, err := openFile(path, quiet, time.Now); err == nil {
		t.Fatal("a file that is not there was read")
	}
	if err := Put(path, line(t, "ann", "first")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v: others can read the hashes", info.Mode(), err)
	}
	f, err := openFile(path, quiet, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, password string, want bool) {
		t.Helper()
		if _, ok := f.Users().Verify("ann", password); ok != want {
			t.Errorf("%s: got %v", what, ok)
		}
	}
	check("at first", "first", true)
	if err := Put(path, line(t, "ann", "second", "g")); err != nil {
		t.Fatal(err)
	}
	if err := Put(path, line(t, "bob", "b")); err != nil {
		t.Fatal(err)
	}
	check("before it is looked at again", "first", true)
	now = now.Add(2 * time.Second)
	check("after a change", "first", false)
	check("after a change", "second", true)
	if n := f.Users().Len(); n != 2 {
		t.Errorf("there are %d users", n)
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	check("after rubbish", "second", true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	check("after the file is gone", "second", true)
}
