// Package users knows who may speak to an event store: names, hashes of passwords and groups, in a file that an operator can
// write with an editor, with "shiplog eventstore passwd", or with htpasswd -B.
//
//	# name:bcrypt hash:groups
//	admin:$2y$10$...
//	billing:$2y$10$...:readers,writers
package users

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Groups and users that EventStoreDB gives a meaning to.
const (
	Admins     = "$admins" // may do everything
	Operations = "$ops"    // may manage subscriptions
	Everybody  = "$all"    // in access lists: whoever it is, with a name or without

	Admin    = "admin" // is in Admins
	Operator = "ops"   // is in Operations
)

// MaxPasswordBytes is how long a password can be: bcrypt would not look at more.
const MaxPasswordBytes = 72

var (
	// ErrSyntax says that a line of a file of users does not parse.
	ErrSyntax = errors.New("not a line of a file of users")
	// ErrPassword says that a password cannot be used.
	ErrPassword = errors.New("not a password")
)

// User is somebody who proved to be who they say. The zero User is anybody.
type User struct {
	Name   string
	Groups []string
}

// Anonymous says that nobody said who they are.
func (u User) Anonymous() bool { return u.Name == "" }

// Is says whether the user has this name or is in this group.
func (u User) Is(role string) bool {
	if role == Everybody {
		return true
	}
	return !u.Anonymous() && (u.Name == role || slices.Contains(u.Groups, role))
}

// Set holds users. It is safe for use by any number of goroutines.
type Set struct {
	accounts map[string]account
	nobody   []byte // a hash that no password has, compared with when there is no such user
	slots    chan struct{}
	secret   []byte // keys verified; it never leaves the process

	mu       sync.Mutex
	verified map[string][sha256.Size]byte // of each user, a keyed digest of the password that was last found right
}

type account struct {
	user User
	hash []byte
}

// Parse reads a file of users.
func Parse(r io.Reader) (*Set, error) {
	s := &Set{
		accounts: make(map[string]account),
		slots:    make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		secret:   make([]byte, sha256.Size),
		verified: make(map[string][sha256.Size]byte),
	}
	lines := bufio.NewScanner(r)
	cost := bcrypt.MinCost
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		a, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: %w", n, ErrSyntax, err)
		}
		if _, twice := s.accounts[a.user.Name]; twice {
			return nil, fmt.Errorf("line %d: %w: the user %s is there twice", n, ErrSyntax, a.user.Name)
		}
		s.accounts[a.user.Name] = a
		if c, err := bcrypt.Cost(a.hash); err == nil {
			cost = max(cost, c)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if _, err := rand.Read(s.secret); err != nil {
		return nil, err
	}
	var err error
	// As costly as the costliest, so that an answer's delay does not tell who there is.
	s.nobody, err = bcrypt.GenerateFromPassword([]byte(rand.Text()), cost)
	return s, err
}

func parseLine(line string) (account, error) {
	fields := strings.Split(line, ":")
	if len(fields) < 2 || len(fields) > 3 {
		return account{}, errors.New("write name:hash or name:hash:group,group")
	}
	name := fields[0]
	if err := checkName(name); err != nil {
		return account{}, err
	}
	if _, err := bcrypt.Cost([]byte(fields[1])); err != nil {
		return account{}, fmt.Errorf("the hash of %s is not bcrypt's: make one with shiplog eventstore passwd, or with htpasswd -B", name)
	}
	u := User{Name: name}
	if len(fields) == 3 {
		for group := range strings.SplitSeq(fields[2], ",") {
			if group = strings.TrimSpace(group); group != "" {
				u.Groups = append(u.Groups, group)
			}
		}
	}
	return account{user: withOwnGroups(u), hash: []byte(fields[1])}, nil
}

// withOwnGroups adds the groups that come with a name.
func withOwnGroups(u User) User {
	for name, group := range map[string]string{Admin: Admins, Operator: Operations} {
		if u.Name == name && !slices.Contains(u.Groups, group) {
			u.Groups = append(u.Groups, group)
		}
	}
	return u
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a user needs a name")
	case strings.HasPrefix(name, "$"):
		return fmt.Errorf("the name %s begins with $, as groups of the system do", name)
	case strings.ContainsAny(name, ": \t\r\n#,"):
		return fmt.Errorf("the name %q has a colon, a comma, a space or a #", name)
	}
	return nil
}

// Len is how many users there are.
func (s *Set) Len() int { return len(s.accounts) }

// Find returns a user by name without asking for a password. It is for those who proved who they are in another way.
func (s *Set) Find(name string) (User, bool) {
	a, ok := s.accounts[name]
	return a.user, ok
}

// Verify returns the user of this name if the password is right. A password that was found right lately costs next to nothing;
// a wrong one, and the name of nobody, cost a whole bcrypt, of which only some run at a time.
func (s *Set) Verify(name, password string) (User, bool) {
	a, known := s.accounts[name]
	digest := s.digest(name, password)
	if known && s.remembers(name, digest) {
		return a.user, true
	}
	hash := s.nobody
	if known {
		hash = a.hash
	}
	s.slots <- struct{}{}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	<-s.slots
	if !known || err != nil {
		return User{}, false
	}
	s.mu.Lock()
	s.verified[name] = digest
	s.mu.Unlock()
	return a.user, true
}

func (s *Set) digest(name, password string) (out [sha256.Size]byte) {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(name))
	mac.Write([]byte{0})
	mac.Write([]byte(password))
	mac.Sum(out[:0])
	return out
}

func (s *Set) remembers(name string, digest [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.verified[name]
	return ok && subtle.ConstantTimeCompare(last[:], digest[:]) == 1
}

// Line makes the line of a user for a file of users. A cost of 0 takes bcrypt's default.
func Line(name, password string, groups []string, cost int) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	for _, g := range groups {
		if g == "" || strings.ContainsAny(g, ": \t\r\n,#") {
			return "", fmt.Errorf("the group %q is empty or has a colon, a comma, a space or a #", g)
		}
	}
	if password == "" || len(password) > MaxPasswordBytes {
		return "", fmt.Errorf("%w: it has %d bytes, and should have between 1 and %d", ErrPassword, len(password), MaxPasswordBytes)
	}
	if cost == 0 {
		cost = bcrypt.DefaultCost
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return "", fmt.Errorf("hashing the password of %s: %w", name, err)
	}
	line := name + ":" + string(hash)
	if len(groups) > 0 {
		line += ":" + strings.Join(groups, ",")
	}
	return line, nil
}
