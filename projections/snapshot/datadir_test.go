package snapshot

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

var keepDataDir = flag.String("keep-datadir", "", "make testdata/datadir-NAME of what this build writes, and its golden file; an old one is never made again")

// TestOldDataDirectories starts from the logs and snapshots that older builds have left: they lead to the same objects for good.
func TestOldDataDirectories(t *testing.T) {
	if *keepDataDir != "" {
		makeDataDir(t, filepath.Join("testdata", "datadir-"+*keepDataDir))
	}
	dirs, err := filepath.Glob(filepath.Join("testdata", "datadir-*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no old data directories: %v", err)
	}
	for _, old := range dirs {
		t.Run(filepath.Base(old), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data")
			check(t, os.CopyFS(path, os.DirFS(filepath.Join(old, "data"))))
			held, err := datadir.Open(path)
			check(t, err)
			defer func() { check(t, held.Close()) }()
			want, err := os.ReadFile(filepath.Join(old, "objects.golden"))
			check(t, err)
			kinds := domain.NewSet(domain.Kinds())
			for _, time := range []string{"the first time", "again"} { // the first time something may be upgraded
				log, err := embedded.Open(held.Join("log"), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
				check(t, err)
				dir := &Dir{Path: held.Join("snapshots"), Log: log, Kinds: kinds}
				for what, opts := range map[string]live.Options{"the log": {}, "a snapshot, if it can be used": {Base: dir.Base}} {
					if got := dump(viewOf(t.Context(), t, log, kinds, opts), true) + "\n"; got != string(want) {
						t.Errorf("%s, from %s (-), golden (+):\n%s", time, what, differ(got, string(want)))
					}
				}
				check(t, log.Close())
			}
		})
	}
}

// makeDataDir keeps what this build leaves: every op, a name that is used again, facts, a bounded stream, a snapshot and a tail.
func makeDataDir(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		t.Fatalf("%s is there: what an older build has left is never made again", path)
	}
	data, err := filepath.Abs(filepath.Join(path, "data"))
	check(t, err)
	held, err := datadir.Open(data)
	check(t, err)
	kinds := domain.NewSet(domain.Kinds())
	log, err := embedded.Open(held.Join("log"), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	scribe := projectiontest.NewScribe(log, kinds)
	put := func(o runtime.Object) domain.Event {
		e, err := scribe.Put(t.Context(), o, nil)
		check(t, err)
		return e
	}
	config := func(name, value string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Data: map[string]string{"v": value, "naïve <&>": "\u2028"},
		}
	}
	lease := func(holder string) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n1"},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder},
		}
	}
	renewed := put(lease("a"))
	check(t, log.SetMetadata(t.Context(), renewed.Ref.Stream(), eventstore.Any, eventstore.Metadata{MaxCount: 1}))
	gone := put(config("gone", "1"))
	_, err = scribe.Delete(t.Context(), gone.Ref, nil)
	check(t, err)
	again := put(config("again", "1"))
	_, err = scribe.Delete(t.Context(), again.Ref, nil)
	check(t, err)
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}
	created := put(pod)
	bound := pod.DeepCopy()
	bound.Spec.NodeName = "n1"
	_, err = scribe.Put(t.Context(), bound, &created)
	check(t, err)
	dir := &Dir{Path: held.Join("snapshots"), Log: log, Kinds: kinds}
	_, err = dir.Write(t.Context(), viewOf(t.Context(), t, log, kinds, live.Options{}))
	check(t, err)
	put(lease("b"))
	put(config("again", "2"))
	_, err = scribe.Refuse(t.Context(), again.Ref, "update", map[string]any{"code": 403})
	check(t, err)
	_, err = scribe.Note(t.Context(), domain.Event{Ref: created.Ref, Type: domain.RequestRefused, Command: domain.CommandInfo{Verb: "delete"}})
	check(t, err)
	for i := range 20 {
		put(config("counter", fmt.Sprint(i)))
	}
	golden := dump(viewOf(t.Context(), t, log, kinds, live.Options{}), true) + "\n"
	check(t, os.WriteFile(filepath.Join(path, "objects.golden"), []byte(golden), 0o644))
	check(t, log.Close())
	check(t, held.Close())
	check(t, os.Remove(held.Join("lock")))
}
