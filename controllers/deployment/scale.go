package deployment

import (
	"maps"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func rolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// bounds resolves maxSurge (rounded up) and maxUnavailable (rounded down). Both at 0 would forbid any step: one pod may then
// be unavailable.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	if !rolling(d) || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	ru := d.Spec.Strategy.RollingUpdate
	n := int(*d.Spec.Replicas)
	s, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxSurge, intstr.FromInt32(0)), n, true)
	if err != nil { // refused by validation
		s = 0
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxUnavailable, intstr.FromInt32(0)), n, false)
	if err != nil {
		u = 0
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(u)
}

func maxSurge(d *appsv1.Deployment) int32 {
	s, _ := bounds(d)
	return s
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, u := bounds(d)
	return min(u, *d.Spec.Replicas)
}

// scaling is a change of a set's size, to be told.
type scaling struct{ from, to int32 }

// scaleTo sets the size of a set, and what its annotations say of the deployment's size. Without force a set that has the size
// is left alone.
func (r *rollout) scaleTo(s *set, n int32, force bool) bool {
	from := s.size()
	if !force && from == n {
		return false
	}
	annotations := sizeAnnotations(r.d)
	if from == n && subset(annotations, s.now.Annotations) {
		return false
	}
	rs := s.edit()
	rs.Spec.Replicas = &n
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	maps.Copy(rs.Annotations, annotations)
	if from != n {
		r.scaled[s] = scaling{from: from, to: n}
	}
	return from != n
}

// scalingEvent says whether the deployment's size has changed since its sets were last scaled. Several active sets are scaled in
// proportion only while rolling; otherwise the next step is to empty the old ones, whatever the size.
func (r *rollout) scalingEvent() bool {
	if !rolling(r.d) && len(active(r.sets)) > 1 {
		return false
	}
	for _, s := range active(r.sets) {
		if desired, ok := annotationNumber(s.now, desiredAnnotation); ok && desired != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// rescale brings the sets to the deployment's size while no step of a rollout is taken: all of it to the one set that is
// active, otherwise to each in proportion, so that the risk of a bad template does not grow.
func (r *rollout) rescale(current *set, old []*set) {
	if s := activeOrLatest(current, old); s != nil {
		r.scaleTo(s, *r.d.Spec.Replicas, false)
		return
	}
	if saturated(r.d, current) {
		for _, s := range active(old) {
			r.scaleTo(s, 0, false)
		}
		return
	}
	if rolling(r.d) {
		r.proportionally()
	}
}

func activeOrLatest(current *set, old []*set) *set {
	all := old
	if current != nil {
		all = append(all[:len(all):len(all)], current)
	}
	switch running := active(all); {
	case len(all) == 0:
		return nil
	case len(running) == 1:
		return running[0]
	case len(running) > 1:
		return nil
	case current != nil:
		return current
	default:
		return old[len(old)-1]
	}
}

// saturated says whether a set holds the whole deployment, all of it available.
func saturated(d *appsv1.Deployment, s *set) bool {
	if s == nil {
		return false
	}
	desired, ok := annotationNumber(s.now, desiredAnnotation)
	return ok && s.size() == *d.Spec.Replicas && desired == *d.Spec.Replicas && s.now.Status.AvailableReplicas == *d.Spec.Replicas
}

func (r *rollout) proportionally() {
	all := active(r.sets)
	var allowed int32
	if *r.d.Spec.Replicas > 0 {
		allowed = *r.d.Spec.Replicas + maxSurge(r.d)
	}
	toAdd := allowed - total(all)
	bySize(all, toAdd > 0)
	var added int32
	sizes := make([]int32, len(all))
	for i, s := range all {
		sizes[i] = s.size()
		if toAdd != 0 {
			share := r.share(s, toAdd, added)
			sizes[i] += share
			added += share
		}
	}
	for i, s := range all {
		if i == 0 && toAdd != 0 { // what rounding leaves goes to the largest
			sizes[i] = max(0, sizes[i]+toAdd-added)
		}
		r.scaleTo(s, sizes[i], true)
	}
}

// share is how many of the replicas to add (or, negative, to remove) fall to a set.
func (r *rollout) share(s *set, toAdd, added int32) int32 {
	if s.size() == 0 || toAdd == added {
		return 0
	}
	left := toAdd - added
	if toAdd > 0 {
		return min(r.fraction(s), left)
	}
	return max(r.fraction(s), left)
}

// fraction is by how much a set grows when it grows as the deployment has since the set was last scaled.
func (r *rollout) fraction(s *set) int32 {
	if *r.d.Spec.Replicas == 0 {
		return -s.size()
	}
	before, ok := annotationNumber(s.now, maxAnnotation)
	if !ok || before == 0 {
		if before = r.d.Status.Replicas; before == 0 {
			return 0
		}
	}
	grown := float64(s.size()) * float64(*r.d.Spec.Replicas+maxSurge(r.d)) / float64(before)
	return int32(math.Round(grown)) - s.size()
}
