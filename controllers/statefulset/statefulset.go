// Package statefulset keeps the pods of StatefulSets, each of which has a name, an ordinal and claims of its own.
package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/history"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var (
	kind         = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	statefulSets = resources.StatefulSets.GroupResource()
	claims       = resources.PersistentVolumeClaims.GroupResource()
)

// Controller keeps the pods of StatefulSets.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "statefulset-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	owners := controllers.OwnerKeys(kind, statefulSets)
	return []controllers.Input{
		{Resource: statefulSets, Why: "what is wanted"},
		{Resource: pods.Resource, Why: "its pods", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			if keys := owners(view, ch); len(keys) > 0 {
				return keys
			}
			// A pod of another that had one of the set's names is gone: the name is free.
			if p, ok := controllers.Of(ch.Before).(*corev1.Pod); ok && ch.After == nil {
				if set, _, ok := parse(p.Name); ok {
					if _, there := view.Get(statefulSets, p.Namespace, set); there {
						return []controllers.Key{controllers.KeyOf(statefulSets, p.Namespace, set)}
					}
				}
			}
			return nil
		}},
		{Resource: history.Resource, Why: "the templates that it had", Keys: owners},
	}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: statefulSets, Fields: []string{"status"}},
		{Resource: pods.Resource, Of: "controlled by statefulsets.apps", Creates: true, Deletes: true, Fields: []string{"metadata.ownerReferences"}},
		{Resource: claims, Of: "of statefulsets.apps", Creates: true, Fields: []string{"metadata.ownerReferences"}},
		{Resource: history.Resource, Of: "controlled by statefulsets.apps", Creates: true, Deletes: true, Fields: []string{"revision"}},
	}
}

// Reconcile implements controllers.Controller. The key is a StatefulSet.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	set, at, ok := controllers.Fetch[*appsv1.StatefulSet](view, key)
	if !ok || set.DeletionTimestamp != nil {
		return controllers.Decision{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return controllers.Decision{}, nil // validation refuses such selectors
	}
	kept, claimed, err := pods.Claim(view, set, kind, selector, false)
	if err != nil {
		return controllers.Decision{}, err
	}
	kept = slices.DeleteFunc(kept, func(p *corev1.Pod) bool { s, _, ok := parse(p.Name); return !ok || s != set.Name })
	claimed = append(claimed, adopt(view, set)...)
	if len(claimed) > 0 {
		return controllers.Decision{Commands: claimed}, nil
	}
	revisions := history.Of(view, set)
	wanted, err := history.Make(set, kind, &set.Spec.Template, set.Status.CollisionCount)
	if err != nil {
		return controllers.Decision{}, err
	}
	update, record := history.Current(revisions, wanted)
	if len(record) > 0 {
		return controllers.Decision{Commands: record, Then: collision(view, set, record[0])}, nil
	}
	l := &look{view: view, set: set, at: at, now: now, update: update, current: update, pods: map[int]*corev1.Pod{}}
	for _, r := range revisions {
		if r.Name == set.Status.CurrentRevision {
			l.current = r
		}
	}
	for _, p := range kept {
		_, n, _ := parse(p.Name)
		l.pods[n] = p
	}
	d, err := l.decide()
	if err != nil {
		return controllers.Decision{}, err
	}
	if len(d.Commands) == 0 {
		d.Commands = history.CleanUp(revisions, set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
			return r.Name == l.update.Name || r.Name == l.current.Name || slices.ContainsFunc(kept, func(p *corev1.Pod) bool { return revisionOf(p) == r.Name })
		})
	}
	return d, nil
}

// adopt takes over the pods that have the set's names and labels and that nobody controls.
func adopt(view projections.Reader, set *appsv1.StatefulSet) []commands.Command {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil
	}
	var out []commands.Command
	start, n := span(set)
	for i := start; i < start+n; i++ {
		p, ok := projections.Get[*corev1.Pod](view, pods.Resource, set.Namespace, podName(set, i))
		if ok && pods.Adoptable(p) && selector.Matches(asSet(p.Labels)) {
			out = append(out, pods.Adopt(p, *metav1.NewControllerRef(set, kind)))
		}
	}
	return out
}

func collision(view projections.Reader, set *appsv1.StatefulSet, c commands.Command) func([]controllers.Outcome) controllers.Decision {
	return func(outcomes []controllers.Outcome) controllers.Decision {
		if !apierrors.IsAlreadyExists(outcomes[0].Err) {
			return controllers.Decision{}
		}
		there, ok := projections.Get[*appsv1.ControllerRevision](view, history.Resource, c.Namespace, c.Name)
		if !ok {
			return controllers.Decision{}
		}
		if owner := metav1.GetControllerOfNoCopy(there); owner != nil && owner.UID == set.UID {
			return controllers.Decision{}
		}
		next := set.DeepCopy()
		count := int32(1)
		if set.Status.CollisionCount != nil {
			count += *set.Status.CollisionCount
		}
		next.Status.CollisionCount = &count
		return controllers.Decision{Commands: []commands.Command{controllers.UpdateStatus(resources.StatefulSets, next)}}
	}
}

// look is one look at one set.
type look struct {
	view            projections.Reader
	set             *appsv1.StatefulSet
	at              *projections.Object
	now             time.Time
	update, current *appsv1.ControllerRevision // of the wanted template, and of the one before while it is replaced
	pods            map[int]*corev1.Pod        // by ordinal
	again           time.Time
	later           []commands.Command // pods whose claims are being made
}

// decide takes a step; when there is none to take it tells the status.
func (l *look) decide() (controllers.Decision, error) {
	status := l.status()
	cs, err := l.step(&status)
	if err != nil {
		return controllers.Decision{}, err
	}
	d := controllers.Decision{Commands: cs, Again: l.again}
	if !equality.Semantic.DeepEqual(status, l.set.Status) {
		next := l.set.DeepCopy()
		next.Status = status
		d.Commands = append(d.Commands, controllers.UpdateStatus(resources.StatefulSets, next))
	}
	about := controllers.Reference(l.at)
	d.Then = func(outcomes []controllers.Outcome) controllers.Decision {
		next := controllers.Decision{Events: told(about, l.set.Name, outcomes)}
		for _, o := range outcomes {
			if o.Command.Resource == resources.PersistentVolumeClaims && o.Err != nil {
				return next
			}
		}
		next.Commands = l.later
		if len(l.later) > 0 {
			next.Then = func(outcomes []controllers.Outcome) controllers.Decision {
				return controllers.Decision{Events: told(about, l.set.Name, outcomes)}
			}
		}
		return next
	}
	return d, nil
}

// available says whether a pod counts as up, for going on to the next.
func (l *look) available(p *corev1.Pod) bool {
	if p == nil || p.DeletionTimestamp != nil || pods.Finished(p) {
		return false
	}
	ok, from := pods.Available(p, l.set.Spec.MinReadySeconds, l.now)
	if !from.IsZero() && (l.again.IsZero() || from.Before(l.again)) {
		l.again = from
	}
	return ok
}

// step brings the set one step nearer to what is wanted: pods that are missing, in their order; pods that are too many, in
// the opposite order; then pods of an older template. Unless its pods are managed in parallel, one at a time.
func (l *look) step(status *appsv1.StatefulSetStatus) ([]commands.Command, error) {
	var cs []commands.Command
	ordered := l.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	start, n := span(l.set)
	for i := start; i < start+n; i++ {
		p := l.pods[i]
		switch {
		case p == nil:
			if _, taken := l.view.Get(pods.Resource, l.set.Namespace, podName(l.set, i)); taken {
				break // another's pod has the name: wait until it is gone
			}
			p, err := l.create(i)
			if err != nil {
				return nil, err
			}
			if missing := l.missingClaims(i); len(missing) > 0 {
				cs = append(cs, missing...)
				l.later = append(l.later, p)
			} else {
				cs = append(cs, p)
			}
		case p.DeletionTimestamp != nil:
		case pods.Finished(p):
			cs = append(cs, controllers.Delete(resources.Pods, p))
		default:
			cs = append(cs, l.missingClaims(i)...)
			if l.available(p) {
				continue
			}
		}
		if ordered {
			return cs, nil // the next one waits for this one
		}
	}
	var condemned []int
	for i := range l.pods {
		if i < start || i >= start+n {
			condemned = append(condemned, i)
		}
	}
	slices.Sort(condemned)
	slices.Reverse(condemned)
	for _, i := range condemned {
		p := l.pods[i]
		if p.DeletionTimestamp == nil {
			if bind := l.bindClaims(p, i); len(bind) > 0 {
				cs = append(cs, bind...)
			} else {
				cs = append(cs, controllers.Delete(resources.Pods, p))
			}
		}
		if ordered {
			return cs, nil
		}
	}
	if len(cs) > 0 {
		return cs, nil
	}
	return l.roll(status), nil
}

// roll replaces pods of older templates, the highest ordinal first, down to the partition, as many at a time as may be
// unavailable.
func (l *look) roll(status *appsv1.StatefulSetStatus) []commands.Command {
	if l.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	start, n := span(l.set)
	room := maxUnavailable(l.set)
	for i := start; i < start+n; i++ {
		if !l.available(l.pods[i]) {
			room--
		}
	}
	var cs []commands.Command
	for i := start + n - 1; i >= start+partition(l.set); i-- {
		p := l.pods[i]
		if p == nil || p.DeletionTimestamp != nil || revisionOf(p) == l.update.Name {
			continue
		}
		if l.available(p) {
			if room <= 0 {
				break
			}
			room--
		}
		cs = append(cs, controllers.Delete(resources.Pods, p))
		if maxUnavailable(l.set) == 1 {
			break
		}
	}
	if len(cs) == 0 && partition(l.set) == 0 && status.UpdatedReplicas == status.Replicas && status.ReadyReplicas == status.Replicas && int(status.Replicas) == n {
		status.CurrentRevision, status.CurrentReplicas = l.update.Name, status.UpdatedReplicas
	}
	return cs
}

// status counts.
func (l *look) status() appsv1.StatefulSetStatus {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: l.set.Generation, CollisionCount: l.set.Status.CollisionCount, Conditions: l.set.Status.Conditions,
		CurrentRevision: l.current.Name, UpdateRevision: l.update.Name,
	}
	for _, p := range l.pods {
		s.Replicas++
		if pods.Ready(p) && p.DeletionTimestamp == nil {
			s.ReadyReplicas++
		}
		if l.available(p) {
			s.AvailableReplicas++
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(p) == l.current.Name {
			s.CurrentReplicas++
		}
		if revisionOf(p) == l.update.Name {
			s.UpdatedReplicas++
		}
	}
	return s
}
