package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// ErrAddressesExhausted says that every address of the node's range belongs to a pod.
var ErrAddressesExhausted = errors.New("no free pod address")

// addresses remembers which pod has which address, on disk before it is used. Addresses are given out in a circle, so that one
// just freed is the last to be used again: whoever still talks to the old pod meets nobody rather than a stranger.
type addresses struct {
	path  string
	cidr  netip.Prefix
	first netip.Addr // the first that a pod may get; the one before is the gateway
	last  netip.Addr // the last that a pod may get; the next is the broadcast address

	mu    sync.Mutex // guards what follows
	given netip.Addr // last given out
	byPod map[string]netip.Addr
	owner map[netip.Addr]string
}

// addressFile is the record's form on disk.
type addressFile struct {
	Version int                   `json:"version"`
	CIDR    netip.Prefix          `json:"cidr"`
	Given   netip.Addr            `json:"lastGiven"`
	Pods    map[string]netip.Addr `json:"pods"`
}

const addressFileVersion = 1

func openAddresses(path string, cidr netip.Prefix) (*addresses, error) {
	a := &addresses{path: path, cidr: cidr, first: cidr.Addr().Next().Next(), last: lastAddr(cidr).Prev()}
	a.byPod, a.owner, a.given = map[string]netip.Addr{}, map[netip.Addr]string{}, a.first.Prev()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of pod addresses: %w", err)
	}
	var file addressFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("the record of pod addresses %s is damaged (remove it when no pod runs on this node): %w", path, err)
	}
	if file.Version != addressFileVersion {
		return nil, fmt.Errorf("the record of pod addresses %s has version %d, this program reads version %d", path, file.Version, addressFileVersion)
	}
	if a.usable(file.Given) {
		a.given = file.Given
	}
	for pod, addr := range file.Pods {
		// The range may have been changed since; an address outside of it serves nobody.
		if !a.usable(addr) {
			continue
		}
		if other, taken := a.owner[addr]; taken {
			return nil, fmt.Errorf("the record of pod addresses %s gives %s to both %s and %s", path, addr, pod, other)
		}
		a.byPod[pod], a.owner[addr] = addr, pod
	}
	return a, nil
}

func lastAddr(cidr netip.Prefix) netip.Addr {
	b := cidr.Addr().As4()
	for bit := cidr.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

func (a *addresses) usable(addr netip.Addr) bool {
	return addr.IsValid() && a.cidr.Contains(addr) && !addr.Less(a.first) && !a.last.Less(addr)
}

// allocate returns the pod's address, and whether the pod got it just now.
func (a *addresses) allocate(pod string) (addr netip.Addr, fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.byPod[pod]; ok {
		return addr, false, nil
	}
	next := func(addr netip.Addr) netip.Addr {
		if addr = addr.Next(); a.usable(addr) {
			return addr
		}
		return a.first
	}
	addr = next(a.given)
	for start := addr; ; {
		if _, taken := a.owner[addr]; !taken {
			break
		}
		if addr = next(addr); addr == start {
			return netip.Addr{}, false, fmt.Errorf("%w in %s: %d pods have one", ErrAddressesExhausted, a.cidr, len(a.byPod))
		}
	}
	formerly := a.given
	a.given, a.byPod[pod], a.owner[addr] = addr, addr, pod
	if err := a.write(); err != nil {
		a.given = formerly
		delete(a.byPod, pod)
		delete(a.owner, addr)
		return netip.Addr{}, false, err
	}
	return addr, true, nil
}

// adopt records what a device in the kernel says; the record may have been lost.
func (a *addresses) adopt(pod string, addr netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if other, taken := a.owner[addr]; taken {
		if other == pod {
			return nil
		}
		return fmt.Errorf("address %s belongs to pod %s", addr, other)
	}
	if has, ok := a.byPod[pod]; ok {
		return fmt.Errorf("pod %s has address %s", pod, has)
	}
	if !a.usable(addr) {
		return nil
	}
	a.byPod[pod], a.owner[addr] = addr, pod
	if err := a.write(); err != nil {
		delete(a.byPod, pod)
		delete(a.owner, addr)
		return err
	}
	return nil
}

// release frees the pod's address; that it has none is no error.
func (a *addresses) release(pod string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr, ok := a.byPod[pod]
	if !ok {
		return nil
	}
	delete(a.byPod, pod)
	delete(a.owner, addr)
	if err := a.write(); err != nil {
		a.byPod[pod], a.owner[addr] = addr, pod
		return err
	}
	return nil
}

// pods lists who has an address.
func (a *addresses) pods() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.byPod))
}

// forget removes the record.
func (a *addresses) forget() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.byPod)
	clear(a.owner)
	a.given = a.first.Prev()
	if err := os.Remove(a.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the record of pod addresses: %w", err)
	}
	return nil
}

// write replaces the file in one step: a reader finds the old record or the new one, also after a crash.
func (a *addresses) write() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the record of pod addresses: %w", err)
		}
	}()
	raw, err := json.MarshalIndent(addressFile{Version: addressFileVersion, CIDR: a.cidr, Given: a.given, Pods: a.byPod}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(a.path)
	tmp, err := os.CreateTemp(dir, ".addresses-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(raw)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), a.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
