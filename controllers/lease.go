package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// LeaseName is the lease in kube-system that the leading controllers hold.
const LeaseName = "shiplog-controllers"

// Lease elects a leader by a Lease object: its holder renews it, and whoever has seen no renewal for Duration, by its own
// clock, may take it. As clocks are only compared with themselves they need not agree.
type Lease struct {
	Bus      commands.Bus
	Live     projections.Live
	Identity string       // of this process; must be unique
	Name     string       // "": LeaseName
	Logger   *slog.Logger // nil: slog.Default()

	Duration time.Duration // after which a lease that is not renewed may be taken; 0: 15 s
	Deadline time.Duration // after which a leader that cannot renew stops acting; 0: 10 s
	Retry    time.Duration // between attempts to take or renew; 0: 2 s
}

// Lead implements Leader.
func (l Lease) Lead(ctx context.Context, run func(ctx context.Context, since uint64)) error {
	if l.Name == "" {
		l.Name = LeaseName
	}
	if l.Logger == nil {
		l.Logger = slog.Default()
	}
	for d, def := range map[*time.Duration]time.Duration{&l.Duration: 15 * time.Second, &l.Deadline: 10 * time.Second, &l.Retry: 2 * time.Second} {
		if *d == 0 {
			*d = def
		}
	}
	if l.Identity == "" {
		return errors.New("electing a leader: the identity of this process is empty")
	}
	var seen observation
	for ctx.Err() == nil {
		held, since, err := l.take(ctx, &seen)
		if err != nil {
			l.Logger.Debug("lease not taken", "lease", l.Name, "error", err)
		}
		if held == nil {
			pause(ctx, l.Retry)
			continue
		}
		l.Logger.Info("leading", "lease", l.Name, "identity", l.Identity)
		l.hold(ctx, held, since, run)
		seen = observation{}
		l.Logger.Info("no longer leading", "lease", l.Name, "identity", l.Identity)
	}
	return ctx.Err()
}

// observation is a lease's content and when this process first saw it.
type observation struct {
	version string
	at      time.Time
}

// take takes the lease when it is free or has not been renewed for long enough, and returns it with the position of the write.
func (l Lease) take(ctx context.Context, seen *observation) (*coordinationv1.Lease, uint64, error) {
	now := time.Now()
	stamp := metav1.NewMicroTime(now)
	seconds := int32(l.Duration / time.Second)
	seconds = max(seconds, 1)
	current, ok := projections.Get[*coordinationv1.Lease](l.Live.Snapshot(), resources.Leases.GroupResource(), metav1.NamespaceSystem, l.Name)
	if !ok {
		var transitions int32
		return l.write(ctx, Create(resources.Leases, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: l.Name},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &l.Identity, LeaseDurationSeconds: &seconds, AcquireTime: &stamp, RenewTime: &stamp, LeaseTransitions: &transitions,
			},
		}))
	}
	if current.ResourceVersion != seen.version {
		*seen = observation{version: current.ResourceVersion, at: now}
	}
	holder := ""
	if current.Spec.HolderIdentity != nil {
		holder = *current.Spec.HolderIdentity
	}
	if holder != "" && holder != l.Identity && now.Sub(seen.at) < l.Duration {
		return nil, 0, nil
	}
	next := current.DeepCopy()
	if holder != l.Identity {
		var transitions int32
		if current.Spec.LeaseTransitions != nil {
			transitions = *current.Spec.LeaseTransitions
		}
		transitions++
		next.Spec.LeaseTransitions, next.Spec.AcquireTime = &transitions, &stamp
	}
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &l.Identity, &seconds, &stamp
	return l.write(ctx, Update(resources.Leases, next))
}

func (l Lease) write(ctx context.Context, c commands.Command) (*coordinationv1.Lease, uint64, error) {
	c.Actor = Actor(LeaseName)
	ctx, cancel := context.WithTimeout(ctx, l.Deadline)
	defer cancel()
	result, err := l.Bus.Do(ctx, c)
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return nil, 0, nil // another was faster
		}
		return nil, 0, fmt.Errorf("writing the lease %s: %w", l.Name, err)
	}
	lease, ok := result.Object.(*coordinationv1.Lease)
	if !ok {
		return nil, 0, fmt.Errorf("writing the lease %s: the bus answered with a %T", l.Name, result.Object)
	}
	return lease, result.Position, nil
}

// hold runs while the lease can be renewed, and gives it up in the end, so that another need not wait for it.
func (l Lease) hold(ctx context.Context, lease *coordinationv1.Lease, since uint64, run func(ctx context.Context, since uint64)) {
	leading, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stop() // run ended by itself: leave the lease
		run(leading, since)
	}()
	lease = l.renew(leading, lease)
	stop()
	<-done
	if lease == nil {
		return
	}
	release := lease.DeepCopy()
	empty, one, stamp := "", int32(1), metav1.NewMicroTime(time.Now())
	release.Spec.HolderIdentity, release.Spec.LeaseDurationSeconds, release.Spec.RenewTime = &empty, &one, &stamp
	if _, _, err := l.write(context.WithoutCancel(ctx), Update(resources.Leases, release)); err != nil {
		l.Logger.Debug("lease not given up", "lease", l.Name, "error", err)
	}
}

// renew renews until the context ends, and then returns the lease; or until the lease is lost, and then returns nil.
func (l Lease) renew(ctx context.Context, lease *coordinationv1.Lease) *coordinationv1.Lease {
	renewed := time.Now()
	for {
		pause(ctx, l.Retry)
		if ctx.Err() != nil {
			return lease
		}
		next := lease.DeepCopy()
		stamp := metav1.NewMicroTime(time.Now())
		next.Spec.RenewTime = &stamp
		// The write must not outlast the deadline: a leader that cannot know whether it leads must have stopped by then.
		attempt, cancel := context.WithDeadline(ctx, renewed.Add(l.Deadline))
		wrote, _, err := l.write(attempt, Update(resources.Leases, next))
		cancel()
		switch {
		case wrote != nil:
			lease, renewed = wrote, time.Now()
			continue
		case err == nil: // someone changed it: still ours?
			current, ok := projections.Get[*coordinationv1.Lease](l.Live.Snapshot(), resources.Leases.GroupResource(), metav1.NamespaceSystem, l.Name)
			if ok && current.ResourceVersion != lease.ResourceVersion {
				if current.Spec.HolderIdentity == nil || *current.Spec.HolderIdentity != l.Identity {
					l.Logger.Warn("lease lost to another", "lease", l.Name)
					return nil
				}
				lease = current
			}
		}
		if time.Since(renewed) >= l.Deadline {
			l.Logger.Warn("lease not renewed in time: stopping", "lease", l.Name, "error", err)
			return nil
		}
	}
}
