package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	private "github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/engine"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/memory"
	"github.com/shiplog/shiplog/projections/postgres"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}}, Data: map[string]string{"v": value},
	}
}

func (w *world) put(name, value string) domain.Event {
	w.t.Helper()
	e, err := w.scribe.Put(w.ctx, configMap(name, value), nil)
	w.check(err)
	return e
}

func TestHistory(t *testing.T) {
	for name, late := range map[string]bool{"followed": false, "built": true} {
		t.Run(name, func(t *testing.T) {
			projectiontest.History(t, func(t *testing.T, log eventstore.Log, kinds *domain.Set) projections.History {
				cfg := postgres.Config{DSN: dsn(shared.Server, newDatabase()), Log: log, Kinds: kinds, Linger: -1}
				if !late { // the tables are there before the events are
					cfg.Log = &growing{Log: log}
				}
				m, _ := follow(t, context.Background(), cfg)
				return m
			})
		})
	}
}

// growing is a log that is empty when it is first asked for its head: what is in it then comes by following it, in small batches.
type growing struct {
	eventstore.Log
	asked bool
}

func (g *growing) Head(ctx context.Context) (eventstore.Position, error) {
	if !g.asked {
		g.asked = true
		return 0, ctx.Err()
	}
	return g.Log.Head(ctx)
}

// After any history, however it was cut into batches and whatever was dropped on the way: the rows are the fold, as of every
// position, and are equal to those that are built from the log's beginning.
func TestTheRowsAreTheFold(t *testing.T) {
	w := newWorld(t).start()
	rapid.Check(t, func(rt *rapid.T) {
		w.log.BatchSize(rapid.IntRange(1, 20).Draw(rt, "batch"))
		positions := []uint64{w.head()}
		projectiontest.RandomHistory(rt, w.ctx, w.scribe, func() { positions = append(positions, w.head()) })
		w.caughtUp()
		at := rapid.SampledFrom(positions).Draw(rt, "at")
		view, err := logreplay.ViewAt(w.ctx, w.log, w.kinds, at)
		w.check(err)
		for _, k := range w.kinds.All() {
			if k.Retained() {
				continue
			}
			rows, err := w.models.ListAt(w.ctx, k.GroupResource(), "", at)
			if err != nil {
				rt.Fatal(err)
			}
			want := slices.Collect(view.List(k.GroupResource(), ""))
			if len(rows) != len(want) {
				rt.Fatalf("%s as of %d: %d rows, want %d", k.Resource, at, len(rows), len(want))
			}
			for i, o := range rows {
				if o.Ref != want[i].Ref || string(o.JSON) != string(want[i].JSON) || o.Position != want[i].Position || o.Revision != want[i].Revision {
					rt.Fatalf("as of %d: %s %s (position %d, revision %d), want %s %s (%d, %d)", at, o.Ref, o.JSON, o.Position, o.Revision,
						want[i].Ref, want[i].JSON, want[i].Position, want[i].Revision)
				}
			}
		}
		store, head := memory.NewStore(), w.head()
		for _, k := range w.kinds.All() {
			objects, err := w.models.ListAt(w.ctx, k.GroupResource(), "", head)
			if err != nil {
				rt.Fatal(err)
			}
			for _, o := range objects {
				store.Put(o)
			}
		}
		if d := projectiontest.DiffView(w.scribe, store.Snapshot(head)); d != "" {
			rt.Fatal(d)
		}
	})
	w.verified()
}

// Connections are cut at any moment while events are written; every event counts once.
func TestExactlyOnceThroughCutConnections(t *testing.T) {
	w := newWorld(t).start()
	w.caughtUp()
	admin := w.connect()
	for i := range 300 {
		w.put(fmt.Sprint("c", i%17), fmt.Sprint(i))
		if i%10 == 0 {
			_, err := admin.Exec(w.ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			w.check(err)
		}
	}
	w.caughtUp()
	var events, distinct, history int
	w.check(admin.QueryRow(w.ctx, "SELECT count(*), count(DISTINCT position), (SELECT count(*) FROM views_v2.history) FROM views_v2.events").Scan(&events, &distinct, &history))
	if events != 300 || distinct != 300 || history != 300 {
		t.Errorf("%d events (%d distinct), %d rows of history; 300 were written", events, distinct, history)
	}
	w.verified()
}

// Two processes that keep the same tables do not count anything twice.
func TestTwoWriters(t *testing.T) {
	w := newWorld(t).start()
	other, _ := follow(t, w.ctx, postgres.Config{DSN: w.dsn, Log: w.log, Kinds: w.kinds, Linger: -1})
	for i := range 200 {
		w.put(fmt.Sprint("c", i%7), fmt.Sprint(i))
	}
	w.caughtUp()
	w.check(other.WaitFor(w.ctx, w.head()))
	w.verified()
}

func TestARestartGoesOnFromTheCheckpoint(t *testing.T) {
	w := newWorld(t).start()
	w.put("a", "1")
	w.caughtUp()
	w.stop()
	w.put("a", "2")
	w.put("b", "1")
	w.start()
	w.caughtUp()
	w.verified()
}

func TestWhatIsDroppedIsBuiltAgain(t *testing.T) {
	for name, sql := range map[string]string{
		"all schemas":    "DROP SCHEMA views_v2 CASCADE; DROP SCHEMA shiplog CASCADE",
		"the schema":     "DROP SCHEMA views_v2 CASCADE",
		"a table":        "DROP TABLE views_v2.history",
		"a column":       "ALTER TABLE views_v2.audit DROP COLUMN reason",
		"the checkpoint": "DELETE FROM views_v2.checkpoint",
		"current rows":   "DELETE FROM views_v2.current",
		"a lost past":    "UPDATE views_v2.checkpoint SET position = 3",
		"a future past":  "UPDATE views_v2.checkpoint SET position = 1000000",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			for i := range 10 {
				w.put(fmt.Sprint("c", i%3), fmt.Sprint(i))
			}
			w.caughtUp()
			w.stop() // what is kept in memory must not hide it
			w.exec(sql)
			w.start()
			w.put("c1", "after")
			w.caughtUp()
			w.verified()
		})
	}
}

// A log that was restored from a backup has lost events, and may have gone on with others: the models are built anew.
func TestARestoredLog(t *testing.T) {
	for name, more := range map[string]int{"shorter": 0, "gone on": 20} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			w.put("a", "1")
			w.caughtUp()
			backup := w.log.Clone()
			scribe := w.scribe.Clone(backup)
			for i := range 5 {
				w.put("a", fmt.Sprint("lost ", i))
			}
			w.caughtUp()
			w.stop()
			w.log, w.scribe = backup, scribe
			for i := range more {
				w.put(fmt.Sprint("b", i), "1")
			}
			w.start()
			w.put("a", "2")
			w.caughtUp()
			w.verified()
		})
	}
}

// The schema of an older version goes once this version's is there; what is not ours stays.
func TestOlderVersionsGo(t *testing.T) {
	w := newWorld(t).start()
	w.caughtUp()
	w.stop()
	w.exec("DROP SCHEMA views_v2 CASCADE; CREATE SCHEMA views_v0; CREATE TABLE views_v0.events (position bigint); CREATE SCHEMA views_victorian; CREATE SCHEMA views_v3")
	w.start()
	w.put("a", "1")
	w.caughtUp()
	var left []string
	w.check(w.connect().QueryRow(w.ctx, "SELECT array_agg(nspname::text ORDER BY nspname) FROM pg_namespace WHERE nspname LIKE 'views%'").Scan(&left))
	if !slices.Equal(left, []string{"views_v2", "views_v3", "views_victorian"}) {
		t.Errorf("schemas %v", left)
	}
	w.verified()
}

func TestADatabaseDroppedUnderUs(t *testing.T) {
	w := newWorld(t).start()
	for i := range 10 {
		w.put(fmt.Sprint("c", i%3), fmt.Sprint(i))
	}
	w.caughtUp()
	name := w.dsn[strings.LastIndex(w.dsn, "///")+3 : strings.Index(w.dsn, "?")]
	mine := w.dsn
	w.dsn = dsn(shared.Server, "postgres")
	w.exec("DROP DATABASE " + name + " WITH (FORCE)")
	w.dsn = mine
	last := w.put("c1", "after")
	w.check(w.models.WaitFor(w.ctx, last.Position))
	w.verified()
}

func TestAnotherClustersDatabaseIsRefused(t *testing.T) {
	w := newWorld(t).start()
	w.put("a", "1")
	w.caughtUp()
	log := projectiontest.NewLog()
	m, err := postgres.Open(w.ctx, postgres.Config{DSN: w.dsn, Log: log, Kinds: w.kinds})
	w.check(err)
	defer m.Close()
	if err := m.Run(w.ctx); !errors.Is(err, postgres.ErrForeign) {
		t.Errorf("Run: %v, want ErrForeign", err)
	}
	if s := m.Status(w.ctx); s[0].State != postgres.Stopped || !strings.Contains(s[0].Error, "another cluster") {
		t.Errorf("status %+v", s[0])
	}
	if _, err := m.Events(w.ctx, projections.EventQuery{}); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("a query: %v", err)
	}
	w.verified()
}

// An event that cannot be applied stops the models, and they say so; nothing of it or after it is written.
func TestPoisonStops(t *testing.T) {
	w := newWorld(t)
	good := w.put("a", "1")
	m := w.start().models
	w.check(m.WaitFor(w.ctx, good.Position))
	bad, err := w.scribe.Force(w.ctx, domain.Event{Ref: good.Ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~nowhere":{"-x":0}}`)})
	w.check(err)
	err = m.WaitFor(w.ctx, bad.Position)
	var poison *engine.PoisonError
	if !errors.Is(err, projections.ErrUnavailable) || !errors.As(err, &poison) || poison.Position != bad.Position {
		t.Fatalf("waiting for what will not come: %v, want poison at position %d", err, bad.Position)
	}
	s := m.Status(w.ctx)[0]
	if s.State != postgres.Stopped || s.Lag == 0 || !strings.Contains(s.Error, fmt.Sprint(bad.Position)) {
		t.Errorf("status %+v", s)
	}
	events, err := m.Events(w.ctx, projections.EventQuery{})
	if err != nil || len(events) != 1 || events[0].ID != good.ID {
		t.Errorf("events %v, %v", events, err)
	}
}

// Postgres stops under load and comes back: writers never wait, the rows catch up by themselves.
func TestPostgresGoesAndComesBack(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir() + "/postgres"
	opts := private.Options{Settings: map[string]string{"fsync": "off"}}
	s, err := private.Start(w.ctx, dir, opts)
	w.check(err)
	w.dsn = s.DSN()
	w.start()
	for i := range 50 {
		w.put(fmt.Sprint("c", i%5), fmt.Sprint(i))
	}
	w.caughtUp()
	w.check(s.Stop(w.ctx))
	began := w.put("c0", "while it is away")
	for i := range 500 {
		w.put(fmt.Sprint("c", i%5), fmt.Sprint("away ", i))
	}
	if _, err := w.models.GetAt(w.ctx, began.Ref, began.Position); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("reading while it is away: %v", err)
	}
	s, err = private.Start(w.ctx, dir, opts)
	w.check(err)
	defer func() { w.check(s.Stop(w.ctx)) }()
	w.caughtUp()
	w.verified()
	w.stop()
}

// Open and queries return at once while Postgres has never been there.
func TestOpenWithoutPostgres(t *testing.T) {
	w := newWorld(t)
	w.dsn = "postgres:///x?host=" + t.TempDir() + "&user=nobody"
	w.start()
	if _, err := w.models.Position(w.ctx); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("Position: %v", err)
	}
	for state := postgres.Starting; state != postgres.Unavailable; state = w.models.Status(w.ctx)[0].State {
		w.check(w.ctx.Err())
	}
	if _, err := postgres.Open(w.ctx, postgres.Config{DSN: "postgres://%zz"}); err == nil {
		t.Error("an address that cannot be read is taken")
	}
}

// Models are rebuilt beside those that are served while events come, and take their place.
func TestRebuildWhileServing(t *testing.T) {
	w := newWorld(t).start()
	for i := range 50 {
		w.put(fmt.Sprint("c", i%5), fmt.Sprint(i))
	}
	w.caughtUp()
	w.exec("UPDATE views_v2.audit SET actor = 'mallory' WHERE position = (SELECT min(position) FROM views_v2.audit)")
	v, err := w.models.Verify(w.ctx, nil)
	w.check(err)
	for _, c := range v.Models {
		if c.Equal == (c.Table == "audit") {
			t.Errorf("%s: equal %v", c.Table, c.Equal)
		}
		if c.Table == "audit" && (!strings.Contains(c.ServedRow, "mallory") || !strings.Contains(c.LogRow, "ada")) {
			t.Errorf("the difference is told as %q and %q", c.ServedRow, c.LogRow)
		}
	}
	stop, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if _, err := w.scribe.Put(w.ctx, configMap("busy", fmt.Sprint(i)), nil); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	steps := 0
	w.check(w.models.Rebuild(w.ctx, []string{"audit", "history"}, func(p postgres.Progress) { steps++ }))
	w.check(w.models.Rebuild(w.ctx, nil, nil))
	close(stop)
	<-written
	if steps == 0 {
		t.Error("no progress was told")
	}
	w.caughtUp()
	w.verified()
	if err := w.models.Rebuild(w.ctx, []string{"colours"}, nil); err == nil || !strings.Contains(err.Error(), "audit") {
		t.Errorf("rebuilding what is not there: %v", err)
	}
}

func TestVerifyFindsAnUnsoundLog(t *testing.T) {
	w := newWorld(t).start()
	w.put("a", "1")
	w.caughtUp()
	w.stop()
	w.put("a", "2")
	w.put("a", "3")
	gap := &without{Log: w.log, revision: 1}
	m, err := postgres.Open(w.ctx, postgres.Config{DSN: w.dsn, Log: gap, Kinds: w.kinds})
	w.check(err)
	defer m.Close()
	_, err = m.Verify(w.ctx, nil)
	if !errors.Is(err, postgres.ErrUnsound) || !strings.Contains(err.Error(), "revision 2") {
		t.Errorf("Verify: %v", err)
	}
}

func TestAuditTellsWhoDidWhat(t *testing.T) {
	w := newWorld(t).start()
	e := w.put("a", "1")
	w.scribe.Actor.Impersonator = "root"
	_, err := w.scribe.Note(w.ctx, domain.Event{
		Ref: e.Ref, Type: "RequestRefused", Command: domain.CommandInfo{Verb: "delete"}, Evidence: []byte(`{"code":403,"reason":"Forbidden","message":"no"}`),
	})
	w.check(err)
	w.caughtUp()
	rows, err := w.connect().Query(w.ctx, "SELECT concat_ws(' ', actor, nullif(impersonator, ''), groups, user_agent, source_ip, verb, name, type, result, code, reason, message) FROM views_v2.audit ORDER BY position")
	w.check(err)
	defer rows.Close()
	var got []string
	for rows.Next() {
		var s string
		w.check(rows.Scan(&s))
		got = append(got, s)
	}
	want := []string{
		`ada ["system:masters"] kubectl 192.0.2.7 create a ConfigMapCreated done 200  `,
		`ada root ["system:masters"] kubectl 192.0.2.7 delete a RequestRefused refused 403 Forbidden no`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// What only a newer build understands stops the models for good, whether it is met while they are built or while they follow:
// unlike poison it is no damage, and rows that leave it out would be wrong.
func TestAMandatoryEventOfANewerBuildStopsForGood(t *testing.T) {
	for name, late := range map[string]bool{"building": false, "following": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			good := w.put("a", "1")
			m, err := postgres.Open(w.ctx, postgres.Config{DSN: w.dsn, Log: w.log, Kinds: w.kinds, Linger: -1})
			w.check(err)
			defer m.Close()
			ended := make(chan error, 1)
			run := func() { ended <- m.Run(w.ctx) }
			if late {
				go run()
				w.check(m.WaitFor(w.ctx, good.Position))
			}
			bad, err := w.scribe.Force(w.ctx, domain.Event{Ref: good.Ref, Op: domain.Changed, Type: "ConfigMapFolded", Mandatory: true, Change: []byte(`{}`)})
			w.check(err)
			if !late {
				go run()
			}
			var newer *domain.MandatoryEventError
			if err := <-ended; !errors.As(err, &newer) || newer.Position != bad.Position {
				t.Errorf("Run: %v, want the event at position %d", err, bad.Position)
			}
			if _, err := m.Verify(w.ctx, nil); !errors.Is(err, domain.ErrNewer) || errors.Is(err, postgres.ErrUnsound) {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}
