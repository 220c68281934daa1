package daemonset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/controllers/pods"
)

// bounds resolves maxSurge and maxUnavailable for a number of nodes; both at 0 would forbid any step.
func (l *look) bounds(wanted int) (surge, unavailable int) {
	ru := l.ds.Spec.UpdateStrategy.RollingUpdate
	if ru == nil {
		return 0, 1
	}
	s, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxSurge, intstr.FromInt32(0)), wanted, true)
	if err != nil { // refused by validation
		s = 0
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxUnavailable, intstr.FromInt32(1)), wanted, true)
	if err != nil {
		u = 1
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return s, u
}

func (l *look) surges() bool {
	s, _ := l.bounds(100)
	return l.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType && s > 0
}

// roll replaces pods of older templates: by deleting at most maxUnavailable of them at a time or, with maxSurge, by starting so
// many new ones beside them and deleting an old one when its successor is available.
func (l *look) roll(all []*node) (create []*node, remove []*corev1.Pod) {
	if l.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return nil, nil
	}
	var wanted []*node
	for _, x := range all {
		if x.wanted {
			wanted = append(wanted, x)
		}
	}
	surge, unavailable := l.bounds(len(wanted))
	available := func(ps []*corev1.Pod) bool {
		return slices.ContainsFunc(ps, func(p *corev1.Pod) bool {
			ok, from := pods.Available(p, l.ds.Spec.MinReadySeconds, l.now)
			if !from.IsZero() {
				l.look(from)
			}
			return ok && p.DeletionTimestamp == nil
		})
	}
	if surge > 0 {
		surging := 0
		var next []*node
		for _, x := range wanted {
			switch {
			case len(x.old) == 0:
			case available(x.fresh):
				over := false
				for _, p := range x.old {
					if p.DeletionTimestamp == nil {
						remove = append(remove, p)
						over = true
					}
				}
				if over { // its place is free once that is being deleted
					surging++
				}
			case len(x.fresh) > 0:
				surging++
			case !available(x.old): // nothing to keep up
				next = append([]*node{x}, next...)
			default:
				next = append(next, x)
			}
		}
		create = next[:min(max(0, surge-surging), len(next))]
		return create, remove
	}
	down := 0
	var broken, sound []*corev1.Pod
	for _, x := range wanted {
		if !available(slices.Concat(x.fresh, x.old)) {
			down++
		}
		for _, p := range x.old {
			switch {
			case p.DeletionTimestamp != nil:
			case available([]*corev1.Pod{p}):
				sound = append(sound, p)
			default:
				broken = append(broken, p) // deleting it makes nothing worse
			}
		}
	}
	return nil, append(broken, sound[:min(max(0, unavailable-down), len(sound))]...)
}
