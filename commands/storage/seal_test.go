package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/live"
)

func (f *fixture) born(t testing.TB, name, host string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}, Spec: example.PodSpec{Hostname: host}}
	if err := f.Create(t.Context(), "/pods/ns/"+name, pod, out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *fixture) alter(t testing.TB, name string, change func(*example.Pod)) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := f.GuaranteedUpdate(t.Context(), "/pods/ns/"+name, out, false, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		change(in.(*example.Pod))
		return in, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *fixture) remove(t testing.TB, name string) {
	t.Helper()
	if err := f.Delete(t.Context(), "/pods/ns/"+name, &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) read(t testing.TB, ctx context.Context, name string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := f.Get(ctx, "/pods/ns/"+name, storage.GetOptions{}, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// key is the id of the key that an object is sealed with.
func (f *fixture) key(t testing.TB, name string) string {
	t.Helper()
	o, ok := f.live.Snapshot().Get(f.gr, "ns", name)
	if !ok {
		t.Fatalf("%s is not there", name)
	}
	return keyOf(o)
}

// quiet waits until the store has no other keys than those named.
func (f *fixture) quiet(t testing.TB, ids ...string) {
	t.Helper()
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(time.Millisecond); ; {
		missing := false
		for _, id := range ids {
			if _, ok := f.store.DataKey(id); !ok {
				missing = true
			}
		}
		if f.store.Len() == len(ids) && !missing {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-deadline.Done():
			t.Fatalf("the store has %d keys, want those of %v (missing some: %v)", f.store.Len(), ids, missing)
		}
	}
}

// find says in which file of the directory a text is.
func (f *fixture) find(t testing.TB, text string) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for rec, err := range f.Log().ReadAll(t.Context(), eventstore.ReadAll{}) {
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(rec.Data, []byte(text)) || bytes.Contains(rec.Metadata, []byte(text)) {
			found = "an event of stream " + rec.Stream
		}
	}
	return found
}

// TestKeysFollowTheirPayloads: a key for a payload, kept as long as the payload, destroyed with it.
func TestKeysFollowTheirPayloads(t *testing.T) {
	f := newSealedFixture(t)
	f.born(t, "a", "canary-one")
	first := f.key(t, "a")
	f.quiet(t, first)
	f.alter(t, "a", func(p *example.Pod) { p.Labels = map[string]string{"x": "y"} })
	if got := f.key(t, "a"); got != first {
		t.Errorf("a label made key %s of key %s", got, first)
	}
	before := f.live.Snapshot().Position()
	f.alter(t, "a", func(*example.Pod) {})
	if got := f.live.Snapshot().Position(); got != before {
		t.Errorf("an update that changes nothing wrote an event")
	}
	f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "canary-two" })
	second := f.key(t, "a")
	if second == first {
		t.Error("another payload has the same key")
	}
	f.quiet(t, second)
	f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "canary-one" })
	if third := f.key(t, "a"); third == second || third == first {
		t.Error("the old payload has an old key")
	}
	if got := f.read(t, t.Context(), "a").Spec.Hostname; got != "canary-one" {
		t.Errorf("read %q", got)
	}
	if err := f.Create(t.Context(), "/pods/ns/a", &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "u2"}}, nil, 0); !storage.IsExist(err) {
		t.Errorf("created twice: %v", err)
	}
	f.remove(t, "a")
	if n := f.store.Len(); n != 0 {
		t.Errorf("%d keys when the deletion has been answered", n)
	}
	f.born(t, "a", "canary-three")
	f.quiet(t, f.key(t, "a"))
	for _, canary := range []string{"canary-one", "canary-two", "canary-three"} {
		if where := f.find(t, canary); where != "" {
			t.Errorf("%s is to be read in %s", canary, where)
		}
	}
}

// Without sealing the search finds what it looks for.
func TestTheSearchFinds(t *testing.T) {
	f := newFixture(t)
	f.born(t, "a", "canary-one")
	if f.find(t, "canary-one") == "" {
		t.Error("the search for canaries finds nothing")
	}
}

func TestThePastOfSealedObjects(t *testing.T) {
	f := newSealedFixture(t)
	v1 := f.born(t, "a", "one").ResourceVersion
	f.born(t, "b", "stays")
	f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "two" })
	then, err := f.parseVersion(v1)
	if err != nil {
		t.Fatal(err)
	}
	f.quiet(t, f.key(t, "a"), f.key(t, "b"))
	past := WithAsOf(t.Context(), then+1)
	erased := f.read(t, past, "a")
	if !domain.Erased(erased) || erased.Spec.Hostname != "" || erased.UID != "uid-a" || erased.ResourceVersion != v1 {
		t.Errorf("the first version reads as %+v", erased)
	}
	list := &example.PodList{}
	if err := f.GetList(past, "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || !domain.Erased(&list.Items[0]) || list.Items[1].Spec.Hostname != "stays" || domain.Erased(&list.Items[1]) {
		t.Errorf("the list of that time: %+v", list.Items)
	}
}

// TestErasedObjectsKeepTheirEnvelope: who changes something else of an object whose key is not at hand does not lose its payload.
func TestErasedObjectsKeepTheirEnvelope(t *testing.T) {
	dir := t.TempDir()
	f := openFixture(t, dir, true)
	f.born(t, "a", "precious")
	id := f.key(t, "a")
	f.end()
	keys := filepath.Join(dir, "keys")
	if err := os.Rename(keys, keys+".away"); err != nil {
		t.Fatal(err)
	}
	f = openFixture(t, dir, true)
	if got := f.read(t, t.Context(), "a"); !domain.Erased(got) || !strings.Contains(got.Annotations[domain.ErasedAnnotation], id) {
		t.Errorf("without keys: %+v", got)
	}
	f.alter(t, "a", func(p *example.Pod) { p.Labels = map[string]string{"x": "y"} })
	if got := f.read(t, t.Context(), "a"); !domain.Erased(got) || got.Labels["x"] != "y" {
		t.Errorf("changed without keys: %+v", got)
	}
	if where := f.find(t, domain.ErasedAnnotation); where != "" {
		t.Errorf("the marker is stored in %s", where)
	}
	f.end()
	if err := errors.Join(os.RemoveAll(keys), os.Rename(keys+".away", keys)); err != nil {
		t.Fatal(err)
	}
	f = openFixture(t, dir, true)
	defer f.end()
	if got := f.read(t, t.Context(), "a"); domain.Erased(got) || got.Spec.Hostname != "precious" || got.Labels["x"] != "y" {
		t.Errorf("with the keys back: %+v", got)
	}
	// A new payload ends it for good.
	if got := f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "new" }); domain.Erased(got) || got.Spec.Hostname != "new" {
		t.Errorf("written anew: %+v", got)
	}
}

// TestStartDestroysWhatACrashLeft: keys whose event never came, and keys whose object has another one or is gone.
func TestStartDestroysWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	f := openFixture(t, dir, true)
	f.born(t, "a", "one")
	f.born(t, "b", "two")
	f.quiet(t, f.key(t, "a"), f.key(t, "b"))
	release := f.store.Hold() // from here on nothing leaves the disk, as if the process died before it could
	f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "three" })
	f.remove(t, "b")
	if _, err := f.store.New(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := f.key(t, "a")
	f.end()
	release()
	f = openFixture(t, dir, true)
	defer f.end()
	f.quiet(t, kept)
	if got := f.read(t, t.Context(), "a").Spec.Hostname; got != "three" {
		t.Errorf("read %q", got)
	}
}

// An object that cannot be read may need any key: none is swept then.
func TestNothingIsSweptWhileSomethingCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	f := openFixture(t, dir, true)
	f.born(t, "a", "one")
	if _, err := f.store.New(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := f.AppendFact(t.Context(), "pods.example.apiserver.k8s.io-ns/broken", eventstore.Any, domain.Event{
		ID: "00000000-0000-4000-8000-000000000001", Type: "PodChanged", Op: domain.Changed, Ref: f.kind.Ref("ns", "broken"),
		Change: []byte(`{"=a":1}`), Time: time.Now(), Version: domain.SchemaVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.end()
	f = openFixture(t, dir, true)
	defer f.end()
	if err := f.live.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.reaper.sweep(t.Context()); !errors.Is(err, errUnread) {
		t.Errorf("sweeping: %v", err)
	}
	if n := f.store.Len(); n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
	if got := f.read(t, t.Context(), "a").Spec.Hostname; got != "one" {
		t.Errorf("read %q", got)
	}
}

// Deletions are told with what was there, although its key is gone when they are answered.
func TestWatchersSeeWhatWasDeleted(t *testing.T) {
	f := newSealedFixture(t)
	f.born(t, "a", "one")
	f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = "two" })
	from := f.live.Snapshot().Position()
	f.remove(t, "a")
	w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{ResourceVersion: fmt.Sprint(from), Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e := <-w.ResultChan()
	if pod, ok := e.Object.(*example.Pod); !ok || pod.Spec.Hostname != "two" || domain.Erased(pod) {
		t.Errorf("%s %+v", e.Type, e.Object)
	}
}

// A watch that is resumed where the live view no longer reaches does not deliver what was erased meanwhile as if it had been emptied.
func TestResumedWatchesStartAgain(t *testing.T) {
	f := openFixture(t, t.TempDir(), true, live.Options{MaxChanges: 2})
	defer f.end()
	from := f.born(t, "a", "one").ResourceVersion
	for _, host := range []string{"two", "three", "four", "five"} {
		f.alter(t, "a", func(p *example.Pod) { p.Spec.Hostname = host })
	}
	f.quiet(t, f.key(t, "a"))
	w, err := f.Watch(t.Context(), "/pods/", storage.ListOptions{ResourceVersion: from, Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e := <-w.ResultChan()
	if status, ok := e.Object.(*metav1.Status); !ok || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("resumed with %s %+v", e.Type, e.Object)
	}
}

// BenchmarkWrite is what sealing adds to an update: of a label (no key is made) and of the payload.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name   string
		open   func(testing.TB) *fixture
		change func(*example.Pod, string)
	}{
		{"plain", newFixture, func(p *example.Pod, v string) { p.Spec.Hostname = v }},
		{"sealed-label", newSealedFixture, func(p *example.Pod, v string) { p.Labels = map[string]string{"v": v} }},
		{"sealed-payload", newSealedFixture, func(p *example.Pod, v string) { p.Spec.Hostname = v }},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := c.open(b)
			f.born(b, "a", "0")
			b.ReportAllocs()
			n := uint64(0)
			for b.Loop() {
				n++
				f.alter(b, "a", func(p *example.Pod) { c.change(p, fmt.Sprint(n)) })
			}
		})
	}
}
