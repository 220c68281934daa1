package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// controlPlane is a small one in memory: a map of objects, the bus that changes them, and the feed that tells of them.
type controlPlane struct {
	mu       sync.Mutex
	position uint64
	objects  map[domain.Ref]runtime.Object
	log      []nodefeed.Item
	changed  chan struct{}
	away     bool
	commands []commands.Command
}

func newControlPlane() *controlPlane {
	return &controlPlane{objects: map[domain.Ref]runtime.Object{}, changed: make(chan struct{})}
}

func refOf(gr schema.GroupResource, namespace, name string) domain.Ref {
	return domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}
}

func (c *controlPlane) put(resource string, o runtime.Object) runtime.Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := o.(metav1.Object)
	return c.store(refOf(schema.GroupResource{Resource: resource}, m.GetNamespace(), m.GetName()), o)
}

func (c *controlPlane) store(ref domain.Ref, o runtime.Object) runtime.Object {
	c.position++
	o = o.DeepCopyObject()
	m := o.(metav1.Object)
	m.SetResourceVersion(strconv.FormatUint(c.position, 10))
	if m.GetUID() == "" {
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", c.position)))
	}
	c.objects[ref] = o
	if ref.Resource != "events" && ref.Resource != "leases" {
		c.log = append(c.log, nodefeed.Item{Op: nodefeed.Put, Position: c.position, Ref: ref, Object: o, EventID: fmt.Sprint("event-", c.position)})
	}
	c.wake()
	return o
}

func (c *controlPlane) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *controlPlane) remove(ref domain.Ref) {
	c.position++
	delete(c.objects, ref)
	c.log = append(c.log, nodefeed.Item{Op: nodefeed.Delete, Position: c.position, Ref: ref})
	c.wake()
}

// setAway makes the control plane unreachable, or reachable again.
func (c *controlPlane) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
	c.wake()
}

func (c *controlPlane) pod(name string) (*corev1.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[refOf(schema.GroupResource{Resource: "pods"}, "default", name)]
	if !ok {
		return nil, false
	}
	return o.(*corev1.Pod), true
}

func (c *controlPlane) events() (out []*corev1.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref, o := range c.objects {
		if ref.Resource == "events" {
			out = append(out, o.(*corev1.Event))
		}
	}
	return out
}

func (c *controlPlane) get(resource, namespace, name string) (runtime.Object, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref, o := range c.objects {
		if ref.Resource == resource && ref.Namespace == namespace && ref.Name == name {
			return o, true
		}
	}
	return nil, false
}

// deletePod does what the API does: the pod's node is to end it.
func (c *controlPlane) deletePod(name string, grace int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ref := refOf(schema.GroupResource{Resource: "pods"}, "default", name)
	p := c.objects[ref].DeepCopyObject().(*corev1.Pod)
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	c.store(ref, p)
}

// Do implements commands.Bus.
func (c *controlPlane) Do(_ context.Context, cmd commands.Command) (commands.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return commands.Result{}, apierrors.NewServiceUnavailable("away")
	}
	c.commands = append(c.commands, cmd)
	ref := refOf(cmd.Resource.GroupResource(), cmd.Namespace, cmd.Name)
	have, ok := c.objects[ref]
	if cmd.Subresource == "token" {
		r := cmd.Object.DeepCopyObject().(*authenticationv1.TokenRequest)
		r.Status = authenticationv1.TokenRequestStatus{Token: "token of " + cmd.Name, ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
		return commands.Result{Object: r}, nil
	}
	switch cmd.Verb {
	case commands.Create:
		if ok {
			return commands.Result{}, apierrors.NewAlreadyExists(cmd.Resource.GroupResource(), cmd.Name)
		}
		return commands.Result{Object: c.store(ref, cmd.Object), Position: c.position}, nil
	case commands.Delete:
		if !ok {
			return commands.Result{}, apierrors.NewNotFound(cmd.Resource.GroupResource(), cmd.Name)
		}
		c.remove(ref)
		return commands.Result{Object: have, Position: c.position}, nil
	case commands.Patch:
		if !ok {
			return commands.Result{}, apierrors.NewNotFound(cmd.Resource.GroupResource(), cmd.Name)
		}
		now, err := patched(have, cmd)
		if err != nil {
			return commands.Result{}, err
		}
		return commands.Result{Object: c.store(ref, now), Position: c.position}, nil
	}
	return commands.Result{}, apierrors.NewMethodNotSupported(cmd.Resource.GroupResource(), string(cmd.Verb))
}

func patched(have runtime.Object, cmd commands.Command) (runtime.Object, error) {
	before, err := json.Marshal(have)
	if err != nil {
		return nil, err
	}
	var after []byte
	if cmd.PatchType == types.StrategicMergePatchType {
		after, err = strategicpatch.StrategicMergePatch(before, cmd.Patch, have)
	} else {
		after, err = jsonpatch.MergePatch(before, cmd.Patch)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var now runtime.Object
	switch have.(type) {
	case *corev1.Pod:
		now = &corev1.Pod{}
	case *corev1.Node:
		now = &corev1.Node{}
	case *corev1.Event:
		now = &corev1.Event{}
	case *coordinationv1.Lease:
		now = &coordinationv1.Lease{}
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a patch of a %T", have))
	}
	if err := json.Unmarshal(after, now); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if have.(metav1.Object).GetUID() != now.(metav1.Object).GetUID() {
		return nil, apierrors.NewConflict(cmd.Resource.GroupResource(), cmd.Name, fmt.Errorf("another uid"))
	}
	return now, nil
}

// Open implements nodefeed.Source.
func (c *controlPlane) Open(_ context.Context, _ string, after uint64) (nodefeed.Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return nil, io.ErrUnexpectedEOF
	}
	s := &feed{c: c}
	if after > 0 {
		for s.next < len(c.log) && c.log[s.next].Position <= after {
			s.next++
		}
		s.first = append(slices.Clone(c.log[s.next:]), nodefeed.Item{Op: nodefeed.Synced, Position: max(c.position, after)})
		s.next = len(c.log)
		return s, nil
	}
	s.first = append(s.first, nodefeed.Item{Op: nodefeed.Reset})
	for ref, o := range c.objects {
		if ref.Resource != "events" && ref.Resource != "leases" {
			s.first = append(s.first, nodefeed.Item{Op: nodefeed.Put, Ref: ref, Object: o})
		}
	}
	s.first = append(s.first, nodefeed.Item{Op: nodefeed.Synced, Position: c.position})
	s.next = len(c.log)
	return s, nil
}

type feed struct {
	c     *controlPlane
	first []nodefeed.Item
	next  int
}

// Next implements nodefeed.Stream.
func (f *feed) Next(ctx context.Context) ([]nodefeed.Item, error) {
	if items := f.first; items != nil {
		f.first = nil
		return items, nil
	}
	for {
		f.c.mu.Lock()
		items := append([]nodefeed.Item(nil), f.c.log[f.next:]...)
		f.next = len(f.c.log)
		changed, away := f.c.changed, f.c.away
		f.c.mu.Unlock()
		if away {
			return nil, io.ErrUnexpectedEOF
		}
		if len(items) > 0 {
			return items, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close implements nodefeed.Stream.
func (f *feed) Close() error { return nil }
