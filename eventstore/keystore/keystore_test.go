package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/shiplog/shiplog/domain"
)

func openOn(t testing.TB, d *disk) *File {
	t.Helper()
	s, err := Open("keys", Options{fs: d})
	if err != nil {
		t.Fatalf("opening: %v (%s)", err, d)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newKey(t testing.TB, s *File) domain.DataKey {
	t.Helper()
	k, err := s.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantKey(t testing.TB, s domain.Keys, k domain.DataKey, want bool) {
	t.Helper()
	got, ok := s.DataKey(k.ID)
	if ok != want || ok && !bytes.Equal(got, k.Key) {
		t.Errorf("key %s: there %v, the same %v; want it there: %v", k.ID, ok, bytes.Equal(got, k.Key), want)
	}
}

func TestKeysOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []domain.DataKey
	for range 3 * growBy {
		keys = append(keys, newKey(t, s))
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Destroy(t.Context(), keys[1].ID, keys[5].ID, "unknown", keys[1].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.New(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	for _, name := range []string{StoreName, KEKName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	again, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	both, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	for i, k := range keys {
		wantKey(t, again, k, i != 1 && i != 5)
	}
	if _, err := again.New(t.Context()); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a key of a store open for reading: %v", err)
	}
	if err := again.Destroy(t.Context(), keys[0].ID); !errors.Is(err, ErrReadOnly) {
		t.Errorf("destroying in a store open for reading: %v", err)
	}
	if err := errors.Join(again.Close(), both.Close(), again.Close()); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(dir, KEKName), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("a key that everybody can read was taken")
	}
}

// Neither a key in plain nor anything that unwraps it is in the store's file.
func TestNothingIsInPlain(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	k := newKey(t, s)
	if d.holds(k.Key) {
		t.Error("the key is on the disk in plain")
	}
	if bytes.Contains(d.files["keys/store"].now, s.current.key) || bytes.Contains(d.files["keys/store"].now, fmt.Appendf(nil, "%x", s.current.key)) {
		t.Error("the KEK is in the store")
	}
}

// TestDestroyedIsGone: what is destroyed is nowhere on the disk, whatever else the files are used for, and its slot is used again.
func TestDestroyedIsGone(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	size := len(d.files["keys/store"].now)
	for range 10 * growBy {
		k := newKey(t, s)
		id, _ := parseKeyID(k.ID)
		box := s.keys[id].box
		if !d.holds(box[:]) {
			t.Fatal("the key is not on the disk")
		}
		if err := s.Destroy(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
		wantKey(t, s, k, false)
		if d.holds(box[:]) || d.holds(id[:]) {
			t.Fatal("a destroyed key is on the disk")
		}
	}
	if got := len(d.files["keys/store"].now); got != size {
		t.Errorf("the store has grown from %d to %d bytes", size, got)
	}
}

func TestSweep(t *testing.T) {
	s := openOn(t, newDisk())
	used, orphan, pending, late := newKey(t, s), newKey(t, s), newKey(t, s), newKey(t, s)
	for _, k := range []domain.DataKey{used, orphan} {
		s.Settle(k.ID)
	}
	n, err := s.Sweep(t.Context(), func() (map[string]bool, error) {
		s.Settle(late.ID) // after the candidates were chosen: the state that was read may not show it
		return map[string]bool{used.ID: true}, nil
	})
	if n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	wantKey(t, s, used, true)
	wantKey(t, s, orphan, false)
	wantKey(t, s, pending, true)
	wantKey(t, s, late, true)
	failed := errors.New("no state")
	if n, err := s.Sweep(t.Context(), func() (map[string]bool, error) { return nil, failed }); n != 0 || !errors.Is(err, failed) {
		t.Errorf("swept %d, %v", n, err)
	}
	wantKey(t, s, used, true)
}

func TestBind(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	for range 2 {
		if err := s.Bind("log-1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, d)
	if err := s.Bind("log-2"); !errors.Is(err, ErrForeign) {
		t.Errorf("bound to another log: %v", err)
	}
}

func TestHoldAndCopy(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	if err := s.Bind("log-1"); err != nil {
		t.Fatal(err)
	}
	before, during := newKey(t, s), newKey(t, s)
	first, second := s.Hold(), s.Hold()
	if err := s.Destroy(t.Context(), during.ID); err != nil {
		t.Fatal(err)
	}
	wantKey(t, s, during, false)
	if n, err := s.Rotate(); n != 1 || err != nil { // a backup does not stop a rotation
		t.Fatal(n, err)
	}
	var store, keks bytes.Buffer
	if err := errors.Join(s.Copy(&store), s.CopyKEK(&keks)); err != nil {
		t.Fatal(err)
	}
	first()
	first()
	id, _ := parseKeyID(during.ID)
	if !d.holds(id[:]) {
		t.Error("the key went while the store was held")
	}
	second()
	if d.holds(id[:]) {
		t.Error("the key stayed after the store was let go")
	}
	// The copy is a store.
	dir := t.TempDir()
	for name, content := range map[string][]byte{StoreName: store.Bytes(), KEKName: keks.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	restored, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	wantKey(t, restored, before, true)
	wantKey(t, restored, during, true)
	if err := restored.Bind("log-2"); !errors.Is(err, ErrForeign) {
		t.Errorf("the copy is bound to another log: %v", err)
	}
}

func TestRotate(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	var keys []domain.DataKey
	for range 2*growBy + 3 {
		keys = append(keys, newKey(t, s))
	}
	for range 3 {
		old := s.current
		oldBox := s.keys[mustID(t, keys[0])].box
		if n, err := s.Rotate(); n != len(keys) || err != nil {
			t.Fatal(n, err)
		}
		if d.holds(fmt.Appendf(nil, "%x", old.key)) || d.holds(oldBox[:]) {
			t.Fatal("the old KEK, or a key that it wrapped, is still on the disk")
		}
		keys = append(keys, newKey(t, s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openOn(t, d)
		for _, k := range keys {
			wantKey(t, s, k, true)
		}
	}
}

func mustID(t testing.TB, k domain.DataKey) keyID {
	t.Helper()
	id, ok := parseKeyID(k.ID)
	if !ok {
		t.Fatalf("%q is no id", k.ID)
	}
	return id
}

func TestWithoutTheKEK(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(t.TempDir(), "secret-kek")
	s, err := Open(dir, Options{KEKFile: elsewhere})
	if err != nil {
		t.Fatal(err)
	}
	newKey(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, KEKName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a KEK beside the store too: %v", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNoKEK) {
		t.Errorf("without its KEK: %v", err)
	}
	other, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Open(dir, Options{KEKFile: other.KEKFile()}); !errors.Is(err, ErrNoKEK) {
		t.Errorf("with another KEK: %v", err)
	}
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("not a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.TempDir(), Options{KEKFile: precious}); !errors.Is(err, ErrNoKEK) {
		t.Errorf("with a file that is none: %v", err)
	}
	if got, err := os.ReadFile(precious); string(got) != "not a key\n" {
		t.Errorf("the file was overwritten: %q, %v", got, err)
	}
}

func TestWhatIsNoStore(t *testing.T) {
	good := append(encodeHead("x"), make([]byte, slotSize)...)
	newer := bytes.Clone(good[:headSize])
	newer[19] = version + 1
	flipped := bytes.Clone(good)
	flipped[30] ^= 1
	for _, c := range []struct {
		name    string
		content []byte
		want    error
	}{
		{"text", []byte("hello"), ErrCorrupt},
		{"a newer version", sum(newer), ErrVersion},
		{"a flipped bit in the head", flipped, ErrCorrupt},
		{"half a slot at the end", good[:len(good)-5], nil},
		{"nothing", nil, nil},
		{"zeros", make([]byte, 900), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, StoreName), c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dir, Options{})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil {
				k := newKey(t, s)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, Options{}); err != nil {
					t.Fatal(err)
				}
				wantKey(t, s, k, true)
				s.Close()
			}
		})
	}
}

// TestEveryBitOfASlot: a damaged slot loses its own key and no other.
func TestEveryBitOfASlot(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	k, other := newKey(t, s), newKey(t, s)
	slot := s.keys[mustID(t, k)].slot
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content := bytes.Clone(d.files["keys/store"].now)
	for bit := range slotSize * 8 {
		damaged := bytes.Clone(content)
		damaged[int(offset(slot))+bit/8] ^= 1 << (bit % 8)
		d.files["keys/store"].now = damaged
		s := openOn(t, d)
		wantKey(t, s, k, false)
		wantKey(t, s, other, true)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Those who come together share a sync.
func TestSyncsAreShared(t *testing.T) {
	d := newDisk()
	s := openOn(t, d)
	started, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.alone(func() error { close(started); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-started
	for range 50 {
		wg.Go(func() { newKey(t, s) })
	}
	for len(s.queue) < 50 {
		runtime.Gosched()
	}
	before := d.syncs
	close(release)
	wg.Wait()
	if got := d.syncs - before; got > 2 {
		t.Errorf("%d syncs for 50 keys", got)
	}
}

// TestCrashes is a random life of a store: keys are made and destroyed, the KEK is rotated, the disk fails at some call, power is lost.
// Afterwards every key that somebody was given and that was not destroyed is there, and none that was destroyed is on the disk.
func TestCrashes(t *testing.T) {
	runs := 3000
	if testing.Short() {
		runs = 300
	}
	for seed := range int64(runs) {
		if err := crashRun(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func crashRun(seed int64) error {
	r := rand.New(rand.NewSource(seed))
	ctx := context.Background()
	d := newDisk()
	there, maybe, gone := map[string][]byte{}, map[string][]byte{}, map[string][][]byte{}
	for round := range 4 {
		if r.Intn(4) > 0 {
			d.failAt = 1 + r.Intn(60)
		}
		s, err := Open("keys", Options{fs: d})
		for err == nil && r.Intn(25) > 0 {
			switch n := r.Intn(10); {
			case n < 5 || len(there) == 0:
				var k domain.DataKey
				if k, err = s.New(ctx); err == nil {
					there[k.ID] = k.Key
				}
			case n < 9:
				ids := make([]string, 0, len(there))
				for id := range there {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				id := ids[r.Intn(len(ids))]
				k, _ := parseKeyID(id)
				traces := [][]byte{bytes.Clone(k[:])}
				if err = s.Destroy(ctx, id); err == nil {
					gone[id] = traces
				} else {
					maybe[id] = there[id]
				}
				delete(there, id)
			default:
				_, err = s.Rotate()
			}
		}
		if s != nil {
			if err := s.Close(); err != nil {
				return err
			}
		}
		if d = d.losePower(r); err == nil && round == 3 {
			break
		}
		for id, traces := range gone {
			for _, trace := range traces {
				if d.holds(trace) {
					return fmt.Errorf("round %d: the destroyed key %s is on the disk", round, id)
				}
			}
		}
	}
	s, err := Open("keys", Options{fs: d})
	if err != nil {
		return fmt.Errorf("opening after the last crash: %w (%s)", err, d)
	}
	defer s.Close()
	for id, key := range there {
		if got, ok := s.DataKey(id); !ok || !bytes.Equal(got, key) {
			return fmt.Errorf("key %s that was given is not there", id)
		}
	}
	for id, key := range maybe {
		if got, ok := s.DataKey(id); ok && !bytes.Equal(got, key) {
			return fmt.Errorf("key %s is another now", id)
		}
	}
	if len(s.keks) != 1 {
		return fmt.Errorf("%d KEKs after a rotation was finished", len(s.keks))
	}
	return nil
}

func BenchmarkNew(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "keys"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k := newKey(b, s)
			s.Settle(k.ID)
		}
	})
	b.Run("many", func(b *testing.B) {
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k := newKey(b, s)
				s.Settle(k.ID)
			}
		})
	})
}

func BenchmarkDataKey(b *testing.B) {
	s := openOn(b, newDisk())
	k := newKey(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.DataKey(k.ID); !ok {
			b.Fatal("not there")
		}
	}
}
