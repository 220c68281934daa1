package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Core Events are for people: of one object a controller records at most eventBurst at once and one more every eventRefill
// (the bounds of client-go's spam filter), and they are dropped rather than hold anything up.
const (
	eventBurst    = 25
	eventRefill   = 5 * time.Minute
	eventBacklog  = 1024
	eventWriters  = 4
	maxEventText  = 1024
	maxBuckets    = 4096
	eventNameBase = 200 // characters of the object's name that go into an Event's
)

// recorder writes core Events in the background.
type recorder struct {
	live    projections.Live
	bus     commands.Bus
	log     *slog.Logger
	backlog chan recorded

	mu      sync.Mutex
	buckets map[bucketKey]bucket
}

type recorded struct {
	component string
	event     Event
	trigger   trigger
	at        time.Time
}

type bucketKey struct {
	component string
	uid       types.UID
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newRecorder(live projections.Live, bus commands.Bus, log *slog.Logger) *recorder {
	return &recorder{live: live, bus: bus, log: log, backlog: make(chan recorded, eventBacklog), buckets: map[bucketKey]bucket{}}
}

// record takes an Event to be written soon, unless its object has had many or the backlog is full.
func (r *recorder) record(component string, e Event, t trigger) {
	now := time.Now()
	if !r.admit(bucketKey{component: component, uid: e.About.UID}, now) {
		return
	}
	select {
	case r.backlog <- recorded{component: component, event: e, trigger: t, at: now}:
	default:
		r.log.Debug("dropping an event: too many are waiting", "reason", e.Reason, "message", e.Message)
	}
}

func (r *recorder) admit(key bucketKey, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.buckets[key]
	if !ok {
		b = bucket{tokens: eventBurst, at: now}
		if len(r.buckets) >= maxBuckets {
			for k, old := range r.buckets {
				if old.fill(now).tokens >= eventBurst {
					delete(r.buckets, k)
				}
			}
		}
	}
	b = b.fill(now)
	admitted := b.tokens >= 1
	if admitted {
		b.tokens--
	}
	r.buckets[key] = b
	return admitted
}

func (b bucket) fill(now time.Time) bucket {
	b.tokens = min(eventBurst, b.tokens+now.Sub(b.at).Seconds()/eventRefill.Seconds())
	b.at = now
	return b
}

func (r *recorder) run(ctx context.Context) {
	var writers sync.WaitGroup
	for range eventWriters {
		writers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case e := <-r.backlog:
					if err := r.write(ctx, e); err != nil && ctx.Err() == nil {
						r.log.Debug("event not recorded", "reason", e.event.Reason, "message", e.event.Message, "error", err)
					}
				}
			}
		})
	}
	writers.Wait()
}

// write creates the Event, or counts it when the same was told before.
func (r *recorder) write(ctx context.Context, e recorded) error {
	wanted := makeEvent(e)
	c := Create(resources.Events, wanted)
	if seen, ok := projections.Get[*corev1.Event](r.live.Snapshot(), resources.Events.GroupResource(), wanted.Namespace, wanted.Name); ok {
		again := seen.DeepCopy()
		again.Count++
		again.LastTimestamp = wanted.LastTimestamp
		c = Update(resources.Events, again)
	}
	c.Actor = Actor(e.component)
	c.Correlation = e.trigger.correlation
	if e.trigger.cause.Position > 0 {
		c.Cause = &domain.Cause{ID: e.trigger.cause.ID, Position: e.trigger.cause.Position}
	}
	_, err := r.bus.Do(ctx, c)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // told by another writer at the same moment, or to nobody
	default:
		return fmt.Errorf("recording %s about %s %s/%s: %w", e.event.Reason, e.event.About.Kind, e.event.About.Namespace, e.event.About.Name, err)
	}
}

// makeEvent makes the core Event. Its name is derived from what it says, so that the same said twice is one Event.
func makeEvent(e recorded) *corev1.Event {
	about := e.event.About
	message := e.event.Message
	if len(message) > maxEventText {
		message = message[:maxEventText-3] + "..."
	}
	h := fnv.New64a()
	for _, s := range []string{e.component, string(about.UID), about.FieldPath, e.event.Type, e.event.Reason, message} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(e.at)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      fmt.Sprintf("%s.%016x", about.Name[:min(len(about.Name), eventNameBase)], h.Sum64()),
		},
		InvolvedObject:      about,
		Reason:              e.event.Reason,
		Message:             message,
		Type:                e.event.Type,
		Source:              corev1.EventSource{Component: e.component},
		ReportingController: e.component,
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
	}
}
