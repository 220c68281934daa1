package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
)

// How many events wait while the control plane is away, and how long one that repeats itself is counted on rather than made anew.
const (
	eventQueue  = 1000
	eventMemory = 10 * time.Minute
	eventRecall = 4096
)

// recorder writes the events that "kubectl describe" shows. It never holds anybody up: what the control plane does not take
// is dropped in the end, and said so in the log.
type recorder struct {
	node  string
	bus   commands.Bus
	actor domain.Actor
	now   func() time.Time
	log   *slog.Logger
	queue chan happening

	mu   sync.Mutex
	seen map[happeningKey]*remembered
}

type happening struct {
	ref                   corev1.ObjectReference
	kind, reason, message string
	at                    time.Time
}

type happeningKey struct {
	uid                          types.UID
	field, kind, reason, message string
}

type remembered struct {
	namespace, name string
	count           int32
	last            time.Time
}

func newRecorder(cfg *Config, now func() time.Time) *recorder {
	return &recorder{
		node: cfg.NodeName, bus: cfg.Upstream.Bus, actor: cfg.actor(), now: now, log: cfg.Logger,
		queue: make(chan happening, eventQueue), seen: map[happeningKey]*remembered{},
	}
}

func (r *recorder) normal(pod *corev1.Pod, container, reason, message string) {
	r.pod(pod, container, corev1.EventTypeNormal, reason, message)
}

func (r *recorder) warn(pod *corev1.Pod, container, reason, message string) {
	r.pod(pod, container, corev1.EventTypeWarning, reason, message)
}

func (r *recorder) pod(pod *corev1.Pod, container, kind, reason, message string) {
	ref := corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = "spec.containers{" + container + "}"
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == container {
				ref.FieldPath = "spec.initContainers{" + container + "}"
			}
		}
	}
	r.add(happening{ref: ref, kind: kind, reason: reason, message: message})
}

// onNode records what happened to the node itself.
func (r *recorder) onNode(uid types.UID, kind, reason, message string) {
	r.add(happening{ref: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.node, UID: uid}, kind: kind, reason: reason, message: message})
}

func (r *recorder) add(h happening) {
	h.at = r.now()
	if len(h.message) > 1024 {
		h.message = h.message[:1021] + "..."
	}
	select {
	case r.queue <- h:
	default:
		r.log.Warn("an event is dropped: the control plane does not take them", "object", h.ref.Name, "reason", h.reason, "message", h.message)
	}
}

// run writes events until the context is done.
func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case h := <-r.queue:
			r.write(ctx, h)
		case <-ctx.Done():
			return
		}
	}
}

func (r *recorder) write(ctx context.Context, h happening) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	key := happeningKey{h.ref.UID, h.ref.FieldPath, h.kind, h.reason, h.message}
	r.mu.Lock()
	known := r.seen[key]
	if known != nil && h.at.Sub(known.last) > eventMemory {
		known = nil
	}
	r.mu.Unlock()
	var err error
	if known != nil {
		known.count++
		known.last = h.at
		if err = r.repeat(ctx, known); err == nil {
			return
		}
		if !apierrors.IsNotFound(err) {
			r.log.Debug("counting an event", "reason", h.reason, "error", err)
			return
		}
	}
	e := r.event(h)
	if _, err = r.bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: eventsVersioned, Namespace: e.Namespace, Name: e.Name, Object: e, Actor: r.actor,
	}); err != nil {
		// An event of a namespace that is being deleted is refused, and rightly.
		r.log.Debug("recording an event", "object", h.ref.Name, "reason", h.reason, "error", err)
		return
	}
	r.mu.Lock()
	if len(r.seen) >= eventRecall {
		clear(r.seen)
	}
	r.seen[key] = &remembered{namespace: e.Namespace, name: e.Name, count: 1, last: h.at}
	r.mu.Unlock()
}

func (r *recorder) event(h happening) *corev1.Event {
	namespace := h.ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(h.at.Truncate(time.Second)) // as JSON has it
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", h.ref.Name, h.at.UnixNano())},
		InvolvedObject: h.ref, Type: h.kind, Reason: h.reason, Message: h.message, FirstTimestamp: at, LastTimestamp: at, Count: 1,
		Source:              corev1.EventSource{Component: "kubelet", Host: r.node},
		ReportingController: "kubelet", ReportingInstance: r.node,
	}
}

func (r *recorder) repeat(ctx context.Context, k *remembered) error {
	patch, err := json.Marshal(map[string]any{"count": k.count, "lastTimestamp": metav1.NewTime(k.last.Truncate(time.Second))})
	if err != nil {
		return err
	}
	_, err = r.bus.Do(ctx, commands.Command{
		Verb: commands.Patch, Resource: eventsVersioned, Namespace: k.namespace, Name: k.name, Patch: patch, PatchType: types.MergePatchType, Actor: r.actor,
	})
	return err
}
