package deployment

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// rollout is one look at one deployment. Its steps edit copies; in the end the differences become commands.
type rollout struct {
	view projections.Reader
	was  *appsv1.Deployment
	d    *appsv1.Deployment // a copy, whose status and annotations are edited
	at   *projections.Object
	now  time.Time

	sets   []*set // all that the deployment controls, oldest first
	scaled map[*set]scaling
	remove []*set // old sets that the revision history has no room for
}

// decide takes one step.
func (r *rollout) decide() (controllers.Decision, error) {
	r.scaled = map[*set]scaling{}
	if r.d.DeletionTimestamp != nil {
		r.d.Status = r.count(nil)
		return r.commit(), nil
	}
	r.pauseCondition()
	current := r.syncRevision()
	switch {
	case r.d.Spec.Paused:
		r.rescale(current, r.old())
		r.cleanUp()
		r.d.Status = r.count(current)
		return r.commit(), nil
	case r.scalingEvent():
		r.rescale(current, r.old())
		r.d.Status = r.count(current)
		return r.commit(), nil
	}
	switch r.d.Spec.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if down := r.scaleDownAll(); !down {
			busy, err := r.oldPodsRun(current)
			if err != nil {
				return controllers.Decision{}, err
			}
			if !busy {
				if current == nil {
					return r.create()
				}
				r.scaleTo(current, *r.d.Spec.Replicas, false)
				r.cleanUpWhenComplete()
			}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if current == nil {
			return r.create()
		}
		if !r.scaleCurrent(current) && !r.scaleDownOld(current) {
			r.cleanUpWhenComplete()
		}
	default:
		return controllers.Decision{}, fmt.Errorf("deployment %s/%s has an unknown strategy %q", r.d.Namespace, r.d.Name, r.d.Spec.Strategy.Type)
	}
	r.d.Status = r.progress(current)
	return r.commit(), nil
}

// syncRevision finds the current set and brings its revision and annotations, and the deployment's revision, up to date.
func (r *rollout) syncRevision() *set {
	s := r.current()
	if s == nil {
		return nil
	}
	annotations := annotate(s.now, r.d, r.old())
	reused := annotations[revisionHistoryAnnotation] != s.now.Annotations[revisionHistoryAnnotation]
	if !maps.Equal(annotations, s.now.Annotations) || s.now.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		rs := s.edit()
		rs.Annotations, rs.Spec.MinReadySeconds = annotations, r.d.Spec.MinReadySeconds
	}
	r.setRevision(annotations[revisionAnnotation])
	if reused { // by this the event is told as a rollback
		r.d.Annotations[revisionHistoryAnnotation] = annotations[revisionHistoryAnnotation]
	}
	if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", s.now.Name))
	}
	return s
}

func (r *rollout) setRevision(revision string) {
	if r.d.Annotations == nil {
		r.d.Annotations = map[string]string{}
	}
	r.d.Annotations[revisionAnnotation] = revision
}

// scaleCurrent brings the current set nearer to the deployment's size, as far as maxSurge allows.
func (r *rollout) scaleCurrent(current *set) bool {
	size := *r.d.Spec.Replicas
	if current.size() >= size {
		return r.scaleTo(current, size, false)
	}
	return r.scaleTo(current, current.size()+r.room(current.size()), false)
}

// room is by how much the current set may grow from a size. Pods of sets that were just made smaller still count until they
// are being deleted, so that there are never more than maxSurge allows; Kubernetes counts only what sets shall have.
func (r *rollout) room(size int32) int32 {
	if !rolling(r.d) {
		return *r.d.Spec.Replicas - size
	}
	var pods int32
	for _, s := range r.sets {
		if s.was.Status.ObservedGeneration < s.was.Generation {
			return 0 // it is not known how many pods the set has; its status will say
		}
		pods += max(s.size(), s.was.Status.Replicas)
	}
	return max(0, min(*r.d.Spec.Replicas+maxSurge(r.d)-pods, *r.d.Spec.Replicas-size))
}

// scaleDownOld takes pods from the old sets, as far as maxUnavailable allows: those that are not available first, as that
// costs nothing; then, oldest set first, as many as there are available ones too many.
func (r *rollout) scaleDownOld(current *set) bool {
	old := active(r.old())
	if len(old) == 0 {
		return false
	}
	minAvailable := *r.d.Spec.Replicas - maxUnavailable(r.d)
	// Pods of the current set that are not available yet must not make the old sets shrink further.
	room := total(r.sets) - minAvailable - (current.size() - current.now.Status.AvailableReplicas)
	if room <= 0 {
		return false
	}
	down := false
	for _, s := range old {
		unhealthy := min(room, s.size()-s.now.Status.AvailableReplicas)
		if unhealthy > 0 {
			down = r.scaleTo(s, s.size()-unhealthy, false) || down
			room -= unhealthy
		}
	}
	spare := min(room, available(r.sets)-minAvailable)
	for _, s := range old {
		n := min(spare, s.size())
		if n > 0 {
			down = r.scaleTo(s, s.size()-n, false) || down
			spare -= n
		}
	}
	return down
}

// scaleDownAll empties all old sets.
func (r *rollout) scaleDownAll() bool {
	down := false
	for _, s := range active(r.old()) {
		down = r.scaleTo(s, 0, false) || down
	}
	return down
}

// oldPodsRun says whether pods of old sets have not ended yet.
func (r *rollout) oldPodsRun(current *set) (bool, error) {
	for _, s := range r.sets {
		if s == current {
			continue
		}
		if s.now.Status.Replicas > 0 {
			return true, nil
		}
		owned, err := pods.OwnedBy(r.view, s.now.UID)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(owned, func(p *corev1.Pod) bool { return !pods.Finished(p) }) {
			return true, nil
		}
	}
	return false, nil
}

func (r *rollout) cleanUpWhenComplete() {
	if complete(r.d, &r.d.Status) {
		r.cleanUp()
	}
}

// cleanUp chooses the old sets of the lowest revisions that the revision history has no room for.
func (r *rollout) cleanUp() {
	if r.d.Spec.RevisionHistoryLimit == nil {
		return
	}
	var old []*set
	for _, s := range r.old() {
		if s.now.DeletionTimestamp == nil {
			old = append(old, s)
		}
	}
	excess := len(old) - int(*r.d.Spec.RevisionHistoryLimit)
	if excess <= 0 {
		return
	}
	slices.SortStableFunc(old, func(a, b *set) int {
		switch x, y := revisionOf(a.now), revisionOf(b.now); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	for _, s := range old[:excess] {
		if s.now.Status.Replicas == 0 && s.size() == 0 && s.was.Generation <= s.now.Status.ObservedGeneration {
			r.remove = append(r.remove, s)
		}
	}
}

// create makes the set of the deployment's template.
func (r *rollout) create() (controllers.Decision, error) {
	template := r.d.Spec.Template.DeepCopy()
	hash, err := hashOf(template, r.d.Status.CollisionCount)
	if err != nil {
		return controllers.Decision{}, err
	}
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := r.d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	size := r.room(0)
	base := r.d.Name[:min(len(r.d.Name), validation.DNS1123SubdomainMaxLength-1-len(hash))]
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       r.d.Namespace,
			Name:            base + "-" + hash,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &size, MinReadySeconds: r.d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	rs.Annotations = annotate(rs, r.d, r.sets)
	maps.Copy(rs.Annotations, sizeAnnotations(r.d))
	d := r.commitSets()
	d.Commands = append(d.Commands, controllers.Create(resources.ReplicaSets, rs))
	told := d.Then
	d.Then = func(outcomes []controllers.Outcome) controllers.Decision {
		last := len(outcomes) - 1
		next := told(outcomes[:last])
		return r.created(rs, outcomes[last].Err, next)
	}
	return d, nil
}

// created decides what follows from the creation of the current set.
func (r *rollout) created(rs *appsv1.ReplicaSet, err error, d controllers.Decision) controllers.Decision {
	about := controllers.Reference(r.at)
	switch {
	case err == nil:
		if *rs.Spec.Replicas > 0 {
			d.Events = append(d.Events, scaledEvent(about, rs.Name, scaling{to: *rs.Spec.Replicas}))
		}
		r.setRevision(rs.Annotations[revisionAnnotation])
		if hasDeadline(r.d) {
			r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", rs.Name))
		}
	case apierrors.IsAlreadyExists(err):
		there, ok := projections.Get[*appsv1.ReplicaSet](r.view, replicaSets, rs.Namespace, rs.Name)
		if !ok {
			return d // the view is old: the next one shows it
		}
		if owner := metav1.GetControllerOfNoCopy(there); owner != nil && owner.UID == r.d.UID && sameTemplate(&there.Spec.Template, &rs.Spec.Template) {
			return d
		}
		// The name belongs to another template: the next attempt uses another hash.
		count := int32(1)
		if r.d.Status.CollisionCount != nil {
			count += *r.d.Status.CollisionCount
		}
		r.d.Status.CollisionCount = &count
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return d
	default:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		d.Events = append(d.Events, controllers.Event{About: about, Type: corev1.EventTypeWarning, Reason: "ReplicaSetCreateError", Message: message})
		if hasDeadline(r.d) {
			r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message)
		}
	}
	if c, ok := r.statusCommand(); ok {
		d.Commands = append(d.Commands, c)
	}
	return d
}

// commit makes commands of what was edited.
func (r *rollout) commit() controllers.Decision {
	d := r.commitSets()
	if c, ok := r.statusCommand(); ok {
		d.Commands = append(d.Commands, c)
	}
	d.Again = r.deadline()
	return d
}

// commitSets makes commands of what was edited of the sets.
func (r *rollout) commitSets() controllers.Decision {
	var d controllers.Decision
	told := map[string]scaling{}
	for _, s := range r.sets {
		if s.now != s.was {
			d.Commands = append(d.Commands, controllers.Update(resources.ReplicaSets, s.now))
			if sc, ok := r.scaled[s]; ok {
				told[s.now.Name] = sc
			}
		}
	}
	for _, s := range r.remove {
		d.Commands = append(d.Commands, controllers.Delete(resources.ReplicaSets, s.was))
	}
	about := controllers.Reference(r.at)
	d.Then = func(outcomes []controllers.Outcome) controllers.Decision {
		var next controllers.Decision
		for _, o := range outcomes {
			if sc, ok := told[o.Command.Name]; ok && o.Err == nil && o.Command.Resource == resources.ReplicaSets {
				next.Events = append(next.Events, scaledEvent(about, o.Command.Name, sc))
			}
		}
		return next
	}
	return d
}

// statusCommand updates the status, and with it the revision annotation, when they differ.
func (r *rollout) statusCommand() (commands.Command, bool) {
	if equality.Semantic.DeepEqual(r.was.Status, r.d.Status) && maps.Equal(r.was.Annotations, r.d.Annotations) {
		return commands.Command{}, false
	}
	return controllers.UpdateStatus(resources.Deployments, r.d), true
}

func scaledEvent(about corev1.ObjectReference, name string, s scaling) controllers.Event {
	direction := "down"
	if s.to > s.from {
		direction = "up"
	}
	return controllers.Event{
		About: about, Type: corev1.EventTypeNormal, Reason: "ScalingReplicaSet",
		Message: fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, name, s.from, s.to),
	}
}
