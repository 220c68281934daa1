package network

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func open(t interface {
	Fatal(args ...any)
	Helper()
}, path, cidr string,
) *addresses {
	t.Helper()
	a, err := openAddresses(path, netip.MustParsePrefix(cidr))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddressesAreGivenInACircle(t *testing.T) {
	// Given a range with five addresses for pods
	a := open(t, filepath.Join(t.TempDir(), "a.json"), "10.1.0.0/29")
	// When pods come and go
	var got []string
	for _, step := range strings.Fields("+a +b -a +c +d +e -b +f -c +g") {
		if pod := step[1:]; step[0] == '-' {
			if err := a.release(pod); err != nil {
				t.Fatal(err)
			}
		} else {
			addr, fresh, err := a.allocate(pod)
			if err != nil || !fresh {
				t.Fatal(step, fresh, err)
			}
			got = append(got, pod+"="+addr.String())
		}
	}
	// Then an address just freed is the last to be used again
	want := "a=10.1.0.2 b=10.1.0.3 c=10.1.0.4 d=10.1.0.5 e=10.1.0.6 f=10.1.0.2 g=10.1.0.3"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if _, _, err := a.allocate("h"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.allocate("i"); !errors.Is(err, ErrAddressesExhausted) {
		t.Errorf("a full range answered %v", err)
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	// Given a pod that has an address, and one that had the next
	a := open(t, path, "10.1.0.0/24")
	first, _, _ := a.allocate("a")
	second, _, _ := a.allocate("b")
	if err := a.release("b"); err != nil {
		t.Fatal(err)
	}
	// When the record is read anew
	a = open(t, path, "10.1.0.0/24")
	// Then the pod keeps its address and the freed one is not used at once
	if again, fresh, err := a.allocate("a"); again != first || fresh || err != nil {
		t.Errorf("pod a has %v (fresh %v, %v), had %v", again, fresh, err, first)
	}
	if next, _, _ := a.allocate("c"); next == second {
		t.Errorf("the address %v was used again at once", next)
	}
}

func TestUnusableRecords(t *testing.T) {
	for _, c := range []struct{ given, content, want string }{
		{"a damaged record", `{"version":1,`, "damaged"},
		{"a record of a later version", `{"version":9}`, "version 9"},
		{"a record that gives one address twice", `{"version":1,"pods":{"a":"10.1.0.5","b":"10.1.0.5"}}`, "10.1.0.5 to both"},
	} {
		path := filepath.Join(t.TempDir(), "a.json")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openAddresses(path, netip.MustParsePrefix("10.1.0.0/24")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.given, err)
		}
	}
}

func TestAnotherRange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	a := open(t, path, "10.1.0.0/24")
	if _, _, err := a.allocate("a"); err != nil {
		t.Fatal(err)
	}
	a = open(t, path, "10.2.0.0/24")
	addr, fresh, err := a.allocate("a")
	if err != nil || !fresh || addr != netip.MustParseAddr("10.2.0.2") {
		t.Errorf("got %v, %v, %v", addr, fresh, err)
	}
}

// Whatever happens, no two pods share an address, none gets the gateway's, the network's or the broadcast address, and what is
// on disk says the same as what is in memory.
func TestAddressesProperty(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, strings.Repeat("x", 1+n%200)+".json")
		_ = os.Remove(path)
		a := open(t, path, "10.1.0.0/28")
		has := map[string]netip.Addr{}
		pod := rapid.StringMatching(`[a-t]`)
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				p := pod.Draw(t, "pod")
				addr, fresh, err := a.allocate(p)
				if errors.Is(err, ErrAddressesExhausted) && len(has) == 13 {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if old, ok := has[p]; ok == fresh || ok && old != addr {
					t.Fatalf("pod %s had %v and got %v (fresh %v)", p, old, addr, fresh)
				}
				has[p] = addr
			},
			"release": func(t *rapid.T) {
				p := pod.Draw(t, "pod")
				if err := a.release(p); err != nil {
					t.Fatal(err)
				}
				delete(has, p)
			},
			"restart": func(t *rapid.T) { a = open(t, path, "10.1.0.0/28") },
			"": func(t *rapid.T) {
				owner := map[netip.Addr]string{}
				for p, addr := range has {
					if other, taken := owner[addr]; taken {
						t.Fatalf("%v belongs to %s and %s", addr, p, other)
					}
					owner[addr] = p
					if last := addr.As4()[3]; last < 2 || last > 14 {
						t.Fatalf("pod %s has %v", p, addr)
					}
				}
				if len(a.pods()) != len(has) {
					t.Fatalf("%d pods have an address, recorded are %v", len(has), a.pods())
				}
			},
		})
	})
}
