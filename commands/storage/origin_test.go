package storage

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/shiplog/shiplog/commands/origin"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// last reads the last event of the log.
func (f *fixture) last(t *testing.T) domain.Event {
	t.Helper()
	for rec, err := range f.log.ReadAll(t.Context(), eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		ev, _, err := projections.EventOf(rec)
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	t.Fatal("the log is empty")
	return domain.Event{}
}

func (f *fixture) make(ctx context.Context, t *testing.T, name string) domain.Event {
	t.Helper()
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u-1"}}
	if err := f.Create(ctx, "/pods/ns/"+name, pod, &example.Pod{}, 0); err != nil {
		t.Fatal(err)
	}
	return f.last(t)
}

func TestAnEventTellsWhoAndWhy(t *testing.T) {
	f := newFixture(t)
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "ann", Groups: []string{"crew"}})
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Verb: "create", Subresource: "status"})
	first := f.make(ctx, t, "a")
	if first.Actor.User != "ann" || first.Command.Verb != "create" || first.Command.Subresource != "status" || first.Correlation == "" || first.Cause != nil {
		t.Errorf("from the request: %+v", first)
	}
	// What a component does about it carries the correlation on.
	second := f.make(origin.With(t.Context(), origin.Origin{
		Actor: domain.Actor{User: "system:controller"}, Cause: &domain.Cause{ID: first.ID, Position: first.Position}, Evidence: []byte(`{"a":1}`),
	}), t, "b")
	if second.Correlation != first.Correlation || second.Cause == nil || second.Cause.ID != first.ID || string(second.Evidence) != `{"a":1}` {
		t.Errorf("from the cause: %+v", second)
	}
	if third := f.make(t.Context(), t, "c"); third.Correlation == first.Correlation {
		t.Error("a new request has an old correlation")
	}
	// An engine that did not append the cause itself finds it in the live view.
	other := NewEngine(Config{Log: f.log, Live: f.live})
	defer other.Close()
	if got := other.correlationOf(t.Context(), second.Cause); got != first.Correlation {
		t.Errorf("another engine gives the correlation %q", got)
	}
}
