package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// dispatcher turns changes into keys of queues.
type dispatcher struct {
	runtime   *Runtime
	routes    map[domain.Resource][]route
	any       []route // inputs of AnyResource
	resources []domain.Resource
}

type route struct {
	controller string
	user       string // whom the controller acts as
	keys       func(projections.Reader, projections.Change) []Key
	queue      *queue
}

func (d *dispatcher) add(c Controller, q *queue) {
	if d.routes == nil {
		d.routes = map[domain.Resource][]route{}
	}
	user := Actor(c.Name()).User
	for _, in := range c.Inputs() {
		rt := route{controller: c.Name(), user: user, keys: in.Keys, queue: q}
		if rt.keys == nil {
			rt.keys = itself
		}
		if in.Resource == AnyResource {
			d.any = append(d.any, rt)
			continue
		}
		if _, ok := d.routes[in.Resource]; !ok {
			d.resources = append(d.resources, in.Resource)
		}
		d.routes[in.Resource] = append(d.routes[in.Resource], rt)
	}
}

// KeysOf returns the keys of a controller that a change concerns, each once: what the runtime would reconcile.
func KeysOf(c Controller, view projections.Reader, ch projections.Change) []Key {
	var keys []Key
	for _, in := range c.Inputs() {
		if in.Resource != AnyResource && in.Resource != ch.Event.Ref.GroupResource() {
			continue
		}
		of := in.Keys
		if of == nil {
			of = itself
		}
		for _, key := range of(view, ch) {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Resources returns the resources of which a view holds objects, custom ones included, in the order of their names. A view
// that cannot tell holds none.
func Resources(view projections.Reader) []domain.Resource {
	r, ok := view.(interface{ Resources() []domain.Resource })
	if !ok {
		return nil
	}
	all := slices.Clone(r.Resources())
	slices.SortFunc(all, func(a, b domain.Resource) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func itself(_ projections.Reader, c projections.Change) []Key {
	ref := c.Event.Ref
	ref.UID = ""
	return []Key{ref}
}

// follow seeds the queues from a snapshot and then follows the changes after it, until the context ends or the view cannot
// be followed.
func (d *dispatcher) follow(ctx context.Context) error {
	live := d.runtime.live
	view := live.Snapshot()
	var only []domain.Resource // none: all
	if len(d.any) == 0 {
		only = d.resources
	}
	f, err := live.Follow(view.Position(), only...)
	if err != nil {
		return fmt.Errorf("following the view from position %d: %w", view.Position(), err)
	}
	defer f.Close()
	d.seed(view)
	for {
		changes, position, err := f.Next(ctx)
		if err != nil {
			return fmt.Errorf("following the view: %w", err)
		}
		if len(changes) > 0 {
			view, now := live.Snapshot(), time.Now()
			for _, c := range changes {
				d.dispatch(view, c, now)
			}
		}
		d.runtime.meters.followed(position)
	}
}

// seed asks for the keys of everything there is, as if it had just been created.
func (d *dispatcher) seed(view projections.Reader) {
	now := time.Now()
	resources := d.resources
	if len(d.any) > 0 {
		resources = Resources(view)
	}
	for _, gr := range resources {
		for o := range view.List(gr, "") {
			d.dispatch(view, projections.Change{
				Event: domain.Event{Ref: o.Ref, Op: domain.Created, Position: o.Position},
				After: o,
			}, now)
		}
	}
}

func (d *dispatcher) dispatch(view projections.Reader, c projections.Change, now time.Time) {
	for _, rt := range d.routes[c.Event.Ref.GroupResource()] {
		rt.dispatch(view, c, now)
	}
	for _, rt := range d.any {
		rt.dispatch(view, c, now)
	}
}

func (rt route) dispatch(view projections.Reader, c projections.Change, now time.Time) {
	for _, key := range rt.keys(view, c) {
		rt.queue.add(key, triggerOf(key, c, rt.user), now)
	}
}

// The ranks of triggers: what a person would name as the reason comes first, what the controller did itself last.
const (
	rankOwnWrite = iota + 1
	rankStatus
	rankSpec
	rankSpecOfKey
)

func triggerOf(key Key, c projections.Change, user string) trigger {
	t := trigger{
		cause:       domain.Cause{ID: c.Event.ID, Position: c.Event.Position},
		correlation: c.Event.Correlation,
	}
	ref := c.Event.Ref
	switch {
	case c.Event.Actor.User == user:
		t.rank = rankOwnWrite
	case !meant(c):
		t.rank = rankStatus
	case ref.Name == key.Name && ref.Namespace == key.Namespace && ref.GroupResource() == key.GroupResource():
		t.rank = rankSpecOfKey
	default:
		t.rank = rankSpec
	}
	return t
}

// meant says whether a change is one of what is wanted, not one of what is.
func meant(c projections.Change) bool {
	before, after := Of(c.Before), Of(c.After)
	if before == nil || after == nil {
		return true
	}
	return before.GetGeneration() != after.GetGeneration() || (before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil)
}
