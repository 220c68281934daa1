package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
)

// fixture is a store of upstream's example pods over a log of the test's own.
type fixture struct {
	*Store
	live  *live.View
	past  *compacted
	codec runtime.Codec
	dir   string
	store *keystore.File // nil unless something is sealed
	end   func()
}

func examplePods() *domain.Kind {
	return &domain.Kind{
		Group: example.GroupName, Version: "v1", Kind: "Pod", Resource: "pods", Namespaced: true,
		New: func() runtime.Object { return &examplev1.Pod{} },
	}
}

func exampleScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	if err := errors.Join(example.AddToScheme(s), examplev1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := openFixture(t, t.TempDir(), false)
	t.Cleanup(f.end)
	return f
}

// newSealedFixture is a fixture whose pods have their spec sealed.
func newSealedFixture(t testing.TB) *fixture {
	t.Helper()
	f := openFixture(t, t.TempDir(), true)
	t.Cleanup(f.end)
	return f
}

// openFixture opens a fixture on a directory that may have been one's before. The caller ends it.
func openFixture(t testing.TB, dir string, sealed bool, options ...live.Options) *fixture {
	t.Helper()
	f := &fixture{dir: dir}
	var ends []func() error
	f.end = sync.OnceFunc(func() {
		for _, end := range slices.Backward(ends) {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	logger := slog.New(slog.DiscardHandler)
	log, err := embedded.Open(filepath.Join(dir, "log"), embedded.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ends = append(ends, log.Close)
	config := Config{Log: log, Logger: logger}
	kinds := domain.NewSet([]*domain.Kind{examplePods()})
	if sealed {
		pods, err := domain.SealFields([]*domain.Kind{examplePods()}, "pods:spec")
		if err != nil {
			t.Fatal(err)
		}
		if f.store, err = keystore.Open(filepath.Join(dir, "keys"), keystore.Options{}); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, f.store.Close)
		kinds = domain.NewSet(pods).WithKeys(f.store)
		config.Keys = f.store
	}
	view := live.New(log, kinds, append(options, live.Options{})[0])
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- view.Run(ctx) }()
	ends = append(ends, func() error { cancel(); return <-ended })
	if err := view.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	f.past = &compacted{History: logreplay.New(log, kinds)}
	config.Live, config.History, config.Kinds = view, f.past, kinds
	engine := NewEngine(config)
	ends = append(ends, func() error { engine.Close(); return nil })
	scheme := exampleScheme(t)
	f.Store, err = engine.Store(Options{
		Kind: kinds.All()[0], Scheme: scheme, Prefix: "/pods",
		New: func() runtime.Object { return &example.Pod{} }, NewList: func() runtime.Object { return &example.PodList{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	f.live, f.codec = view, codecs.LegacyCodec(examplev1.SchemeGroupVersion)
	if _, err := f.tick(ctx); err != nil { // upstream's suite takes version 0 for no version: no cluster's log is empty
		t.Fatal(err)
	}
	return f
}

// compacted forgets what lies before a position, as retention may.
type compacted struct {
	projections.History
	floor atomic.Uint64
}

func (c *compacted) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	if position < c.floor.Load() {
		return nil, projections.ErrTooOld
	}
	return c.History.ListAt(ctx, gr, namespace, position)
}

func (c *compacted) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	if position < c.floor.Load() {
		return nil, projections.ErrTooOld
	}
	return c.History.GetAt(ctx, ref, position)
}

// compact makes the fixture forget everything before a version, the view's recent changes included.
func (f *fixture) compact(ctx context.Context, t *testing.T, rv string) {
	t.Helper()
	n, err := f.parseVersion(rv)
	if err != nil {
		t.Fatal(err)
	}
	f.past.floor.Store(n)
	f.pages.forget()
}

// compactAndMove does as etcd does: a compaction moves the version on.
func (f *fixture) compactAndMove(ctx context.Context, t *testing.T, rv string) {
	t.Helper()
	f.compact(ctx, t, rv)
	f.increase(ctx, t)
}

// increase lets the log move on by an event that concerns no pod.
func (f *fixture) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	position, err := f.tick(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

func (f *fixture) tick(ctx context.Context) (int64, error) {
	done, err := f.AppendFact(ctx, "elsewhere", eventstore.Any, domain.Event{
		ID: uuid.NewString(), Type: "TimePassed", Ref: domain.Ref{Resource: "clocks", Name: "clock"}, Time: time.Now(), Version: 1,
	})
	return int64(done.Position), err
}

// invariants checks what the log holds under a key.
func (f *fixture) invariants(_ context.Context, t *testing.T, key string) {
	t.Helper()
	ref, err := f.object(key)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := f.live.Snapshot().Get(f.gr, ref.Namespace, ref.Name)
	if !ok {
		t.Fatalf("nothing under %s", key)
	}
	var kept struct {
		Metadata map[string]any `json:"metadata"`
	}
	if err := json.Unmarshal(o.JSON, &kept); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"resourceVersion", "selfLink"} {
		if _, ok := kept.Metadata[field]; ok {
			t.Errorf("%s is kept with the object", field)
		}
	}
}

func uncounted(*testing.T, uint64, uint64) {}

// untransformed lends upstream's tests the form of a store whose data can be transformed on the way; ours cannot.
type untransformed struct{ *fixture }

func (untransformed) UpdatePrefixTransformer(storagetesting.PrefixTransformerModifier) func() {
	return func() {}
}

// suite is upstream's conformance suite for storage.Interface.
func suite() map[string]func(t *testing.T, f *fixture) {
	ctx := context.Background()
	return map[string]func(t *testing.T, f *fixture){
		"Create":                          func(t *testing.T, f *fixture) { storagetesting.RunTestCreate(ctx, t, f, f.invariants) },
		"CreateWithTTL":                   func(t *testing.T, f *fixture) { storagetesting.RunTestCreateWithTTL(ctx, t, f) },
		"CreateWithKeyExist":              func(t *testing.T, f *fixture) { storagetesting.RunTestCreateWithKeyExist(ctx, t, f) },
		"Get":                             func(t *testing.T, f *fixture) { storagetesting.RunTestGet(ctx, t, f) },
		"UnconditionalDelete":             func(t *testing.T, f *fixture) { storagetesting.RunTestUnconditionalDelete(ctx, t, f) },
		"ConditionalDelete":               func(t *testing.T, f *fixture) { storagetesting.RunTestConditionalDelete(ctx, t, f) },
		"DeleteWithSuggestion":            func(t *testing.T, f *fixture) { storagetesting.RunTestDeleteWithSuggestion(ctx, t, f) },
		"DeleteWithSuggestionAndConflict": func(t *testing.T, f *fixture) { storagetesting.RunTestDeleteWithSuggestionAndConflict(ctx, t, f) },
		"DeleteWithConflict":              func(t *testing.T, f *fixture) { storagetesting.RunTestDeleteWithConflict(ctx, t, f) },
		"DeleteWithSuggestionOfDeleted":   func(t *testing.T, f *fixture) { storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(ctx, t, f) },
		"ValidateDeletionWithSuggestion":  func(t *testing.T, f *fixture) { storagetesting.RunTestValidateDeletionWithSuggestion(ctx, t, f) },
		"ValidateDeletionOnlySuggestion": func(t *testing.T, f *fixture) {
			storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(ctx, t, f)
		},
		"PreconditionalDeleteWithSuggestion": func(t *testing.T, f *fixture) { storagetesting.RunTestPreconditionalDeleteWithSuggestion(ctx, t, f) },
		"PreconditionalDeleteOnlySuggestion": func(t *testing.T, f *fixture) {
			storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(ctx, t, f)
		},
		"List": func(t *testing.T, f *fixture) { storagetesting.RunTestList(ctx, t, f, f.compactAndMove, false, nil) },
		"ConsistentList": func(t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(ctx, t, f, f.increase, false, true, false)
		},
		"GetListNonRecursive":        func(t *testing.T, f *fixture) { storagetesting.RunTestGetListNonRecursive(ctx, t, f.increase, f) },
		"GetListRecursivePrefix":     func(t *testing.T, f *fixture) { storagetesting.RunTestGetListRecursivePrefix(ctx, t, f) },
		"KeySchema":                  func(t *testing.T, f *fixture) { storagetesting.RunTestKeySchema(ctx, t, f) },
		"ListContinuation":           func(t *testing.T, f *fixture) { storagetesting.RunTestListContinuation(ctx, t, f, uncounted) },
		"ListPaginationRareObject":   func(t *testing.T, f *fixture) { storagetesting.RunTestListPaginationRareObject(ctx, t, f, uncounted) },
		"ListContinuationWithFilter": func(t *testing.T, f *fixture) { storagetesting.RunTestListContinuationWithFilter(ctx, t, f, uncounted) },
		"ListInconsistentContinuation": func(t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
		},
		"ListResourceVersionMatch": func(t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, untransformed{f})
		},
		"ListPaging":          func(t *testing.T, f *fixture) { storagetesting.RunTestListPaging(ctx, t, f) },
		"NamespaceScopedList": func(t *testing.T, f *fixture) { storagetesting.RunTestNamespaceScopedList(ctx, t, f) },
		"GuaranteedUpdate": func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, untransformed{f}, f.invariants)
		},
		"GuaranteedUpdateWithTTL": func(t *testing.T, f *fixture) { storagetesting.RunTestGuaranteedUpdateWithTTL(ctx, t, f) },
		"GuaranteedUpdateChecksStoredData": func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, untransformed{f})
		},
		"GuaranteedUpdateWithConflict": func(t *testing.T, f *fixture) { storagetesting.RunTestGuaranteedUpdateWithConflict(ctx, t, f) },
		"GuaranteedUpdateSuggestionConflict": func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, f)
		},
		"TransformationFailure": func(t *testing.T, f *fixture) { storagetesting.RunTestTransformationFailure(ctx, t, untransformed{f}) },
		"Stats": func(t *testing.T, f *fixture) {
			storagetesting.RunTestStats(ctx, t, f, f.codec, identity.NewEncryptCheckTransformer(), true)
		},
		"CompactRevision": func(t *testing.T, f *fixture) {
			storagetesting.RunTestCompactRevision(ctx, t, f, f.increase, f.compact)
		},
		"Watch":                func(t *testing.T, f *fixture) { storagetesting.RunTestWatch(ctx, t, f) },
		"WatchFromZero":        func(t *testing.T, f *fixture) { storagetesting.RunTestWatchFromZero(ctx, t, f, nil) },
		"WatchFromNonZero":     func(t *testing.T, f *fixture) { storagetesting.RunTestWatchFromNonZero(ctx, t, f) },
		"DeleteTriggerWatch":   func(t *testing.T, f *fixture) { storagetesting.RunTestDeleteTriggerWatch(ctx, t, f) },
		"DelayedWatchDelivery": func(t *testing.T, f *fixture) { storagetesting.RunTestDelayedWatchDelivery(ctx, t, f) },
		"WatchError":           func(t *testing.T, f *fixture) { storagetesting.RunTestWatchError(ctx, t, untransformed{f}) },
		"WatchErrorIsBlockingFurtherEvents": func(t *testing.T, f *fixture) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, untransformed{f})
		},
		"WatchContextCancel":          func(t *testing.T, f *fixture) { storagetesting.RunTestWatchContextCancel(ctx, t, f) },
		"WatcherTimeout":              func(t *testing.T, f *fixture) { storagetesting.RunTestWatcherTimeout(ctx, t, f) },
		"WatchDeleteEventHasLatestRV": func(t *testing.T, f *fixture) { storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, f) },
		"WatchInitializationSignal":   func(t *testing.T, f *fixture) { storagetesting.RunTestWatchInitializationSignal(ctx, t, f) },
		"ClusterScopedWatch":          func(t *testing.T, f *fixture) { storagetesting.RunTestClusterScopedWatch(ctx, t, f) },
		"NamespaceScopedWatch":        func(t *testing.T, f *fixture) { storagetesting.RunTestNamespaceScopedWatch(ctx, t, f) },
		"WatchDispatchBookmarkEvents": func(t *testing.T, f *fixture) { storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, f, true) },
		"WatchBookmarksCorrectRV": func(t *testing.T, f *fixture) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, f)
		},
		"ProgressNotify":                     func(t *testing.T, f *fixture) { storagetesting.RunOptionalTestProgressNotify(ctx, t, f, f.increase) },
		"SendInitialEventsBackwardCompat":    func(t *testing.T, f *fixture) { storagetesting.RunSendInitialEventsBackwardCompatibility(ctx, t, f) },
		"WatchSemantics":                     func(t *testing.T, f *fixture) { storagetesting.RunWatchSemantics(ctx, t, f) },
		"WatchSemanticInitialEventsExtended": func(t *testing.T, f *fixture) { storagetesting.RunWatchSemanticInitialEventsExtended(ctx, t, f) },
		"WatchListMatchSingle":               func(t *testing.T, f *fixture) { storagetesting.RunWatchListMatchSingle(ctx, t, f) },
	}
}

// listed reads CONFORMANCE.md: the tests that do not pass, and why.
func listed(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([A-Za-z]+)` \\| (.+) \\|$")
	out := map[string]string{}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		if m := row.FindStringSubmatch(sc.Text()); m != nil {
			out[m[1]] = strings.TrimSpace(m[2])
		}
	}
	return out
}

// alone is set in the environment of a process that runs one listed test.
const alone = "SHIPLOG_CONFORMANCE_ALONE"

// TestConformance runs upstream's suite. A test that CONFORMANCE.md lists has to fail, in a process of its own; any other has to
// pass.
func TestConformance(t *testing.T) {
	tests, known := suite(), listed(t)
	for name := range known {
		if tests[name] == nil {
			t.Errorf("CONFORMANCE.md lists %s, which is no test of the suite", name)
		}
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			if _, ok := known[name]; ok && os.Getenv(alone) != name {
				t.Parallel()
				mustFail(t, name)
				return
			}
			run(t, newFixture(t))
		})
	}
}

// TestConformanceSealed runs the suite on a kind whose spec is sealed: nobody who reads the present or writes may notice. List asks for
// exact versions of the past too, which are erased by then: see TestThePastOfSealedObjects.
func TestConformanceSealed(t *testing.T) {
	known := listed(t)
	known["List"] = "superseded payloads are erased"
	for name, run := range suite() {
		if _, ok := known[name]; !ok {
			t.Run(name, func(t *testing.T) { run(t, newSealedFixture(t)) })
		}
	}
}

// mustFail runs a listed test and fails if it passes.
func mustFail(t *testing.T, name string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", fmt.Sprintf("^TestConformance$/^%s$", name), "-test.timeout", "20s")
	cmd.Env = append(os.Environ(), alone+"="+name)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("%s passes: take it off CONFORMANCE.md", name)
	case !errors.As(err, &exit):
		t.Fatalf("running %s alone: %v\n%s", name, err, out)
	}
}

var _ storage.Interface = (*fixture)(nil)
