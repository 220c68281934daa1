package postgres_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/postgres"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// With the real log and its retention: leases are renewed until the log has forgotten most of it; everything that reads agrees,
// started early or late, and what is served is what can be rebuilt.
func TestTheLogsAndTheirRetention(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { theLogAndItsRetention(t, newWorld(t), openEmbedded(t)) })
	t.Run("over EventStoreDB's protocol", func(t *testing.T) {
		w := newWorld(t)
		theLogAndItsRetention(t, w, overProtocol(t, w.ctx, openEmbedded(t)))
	})
}

func openEmbedded(t *testing.T) eventstore.Log {
	t.Helper()
	log, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// overProtocol is a log as its clients see it.
func overProtocol(t *testing.T, ctx context.Context, log eventstore.Log) eventstore.Log {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := protocol.NewServer(log, protocol.Options{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	client, err := esdb.Open(ctx, "esdb://"+l.Addr().String()+"?tls=false", esdb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func theLogAndItsRetention(t *testing.T, w *world, log eventstore.Log) {
	scribe := projectiontest.NewScribe(log, w.kinds)
	view := live.New(log, w.kinds, live.Options{})
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- view.Run(ctx) }()
	models, stop := follow(t, w.ctx, postgres.Config{DSN: w.dsn, Log: log, Kinds: w.kinds, Linger: -1})

	w.check(log.SetMetadata(w.ctx, "leases.coordination.k8s.io-kube-node-lease/n1", eventstore.Any, eventstore.Metadata{MaxCount: 2}))
	w.check(log.SetMetadata(w.ctx, "audit-requests", eventstore.Any, eventstore.Metadata{MaxCount: 3}))
	var err error
	var last domain.Event
	for i := range 40 {
		holder := fmt.Sprint("holder ", i)
		_, err := scribe.Put(w.ctx, &coordinationv1.Lease{
			TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n1"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder},
		}, nil)
		w.check(err)
		e, err := scribe.Put(w.ctx, configMap(fmt.Sprint("c", i%3), fmt.Sprint(i)), nil)
		w.check(err)
		last, err = scribe.Note(w.ctx, domain.Event{Ref: e.Ref, Type: "RequestRefused", Evidence: []byte(`{"code":403}`)})
		w.check(err)
	}
	kept := 0
	for _, err := range log.ReadStream(w.ctx, "leases.coordination.k8s.io-kube-node-lease/n1", eventstore.ReadStream{}) {
		w.check(err)
		kept++
	}
	if kept != 2 {
		t.Fatalf("the log has kept %d events of the lease, not 2: the test is about what it forgets", kept)
	}
	w.check(models.WaitFor(w.ctx, last.Position))
	w.check(view.WaitFor(w.ctx, last.Position))

	if d := projectiontest.DiffView(scribe, view.Snapshot()); d != "" {
		t.Errorf("the live view: %s", d)
	}
	late := live.New(log, w.kinds, live.Options{})
	lateCtx, lateCancel := context.WithCancel(w.ctx)
	lateEnded := make(chan error, 1)
	go func() { lateEnded <- late.Run(lateCtx) }()
	w.check(late.WaitReady(w.ctx))
	if d := projectiontest.DiffView(scribe, late.Snapshot()); d != "" {
		t.Errorf("the live view started late: %s", d)
	}
	head, err := log.Head(w.ctx)
	w.check(err)
	replayed, err := logreplay.ViewAt(w.ctx, log, w.kinds, uint64(head))
	w.check(err)
	if d := projectiontest.DiffView(scribe, replayed); d != "" {
		t.Errorf("the log replayed: %s", d)
	}
	v, err := models.Verify(w.ctx, nil)
	w.check(err)
	for _, c := range v.Models {
		if !c.Equal {
			t.Errorf("%s: %+v", c.Table, c)
		}
	}
	w.check(models.Rebuild(w.ctx, nil, nil))
	w.check(models.WaitFor(w.ctx, uint64(head)))
	objects := 0
	for _, k := range w.kinds.All() {
		list, err := models.ListAt(w.ctx, k.GroupResource(), "", uint64(head))
		w.check(err)
		objects += len(list)
	}
	if objects != 4 {
		t.Errorf("after a rebuild: %d objects", objects)
	}
	stop()
	cancel()
	lateCancel()
	w.check(<-ended)
	w.check(<-lateEnded)
}
