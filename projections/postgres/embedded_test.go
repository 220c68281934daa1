package postgres_test

import (
	"context"
	"fmt"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/postgres"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// With the real log and its retention: leases are renewed until the log has forgotten most of it; everything that reads agrees,
// started early or late, and what is served is what can be rebuilt.
func TestTheEmbeddedLogAndItsRetention(t *testing.T) {
	w := newWorld(t)
	log, err := embedded.Open(t.TempDir(), embedded.Options{})
	w.check(err)
	defer func() { w.check(log.Close()) }()
	scribe := projectiontest.NewScribe(log, w.kinds)
	view := live.New(log, w.kinds, live.Options{})
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- view.Run(ctx) }()
	models, stop := follow(t, w.ctx, postgres.Config{DSN: w.dsn, Log: log, Kinds: w.kinds, Linger: -1})

	w.check(log.SetMetadata(w.ctx, "leases.coordination.k8s.io-kube-node-lease/n1", eventstore.Any, eventstore.Metadata{MaxCount: 2}))
	w.check(log.SetMetadata(w.ctx, "audit-requests", eventstore.Any, eventstore.Metadata{MaxCount: 3}))
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
	late := live.New(log, w.kinds, live.Options{Start: models.Start})
	lateCtx, lateCancel := context.WithCancel(w.ctx)
	lateEnded := make(chan error, 1)
	go func() { lateEnded <- late.Run(lateCtx) }()
	w.check(late.WaitReady(w.ctx))
	if d := projectiontest.DiffView(scribe, late.Snapshot()); d != "" {
		t.Errorf("the live view started from Postgres: %s", d)
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
	objects, position, err := models.Start(w.ctx)
	w.check(err)
	if len(objects) != 4 || position < last.Position {
		t.Errorf("after a rebuild: %d objects at position %d", len(objects), position)
	}
	stop()
	cancel()
	lateCancel()
	w.check(<-ended)
	w.check(<-lateEnded)
}
