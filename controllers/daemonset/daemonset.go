// Package daemonset keeps one pod of each DaemonSet on every node that it is for.
package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/history"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var (
	kind       = appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	daemonSets = resources.DaemonSets.GroupResource()
	nodes      = resources.Nodes.GroupResource()
)

// failedPause is how long a pod that failed is left before it is replaced, so that one that fails at once does not do so all
// the time.
const failedPause = 10 * time.Second

// Controller keeps the pods of DaemonSets.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "daemon-set-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	owners := controllers.OwnerKeys(kind, daemonSets)
	return []controllers.Input{
		{Resource: daemonSets, Why: "what is wanted"},
		{Resource: pods.Resource, Why: "its pods", Keys: owners},
		{Resource: nodes, Why: "where it is wanted", Keys: allOnNodeChange},
		{Resource: history.Resource, Why: "the templates that it had", Keys: owners},
	}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: daemonSets, Fields: []string{"status"}},
		{Resource: pods.Resource, Of: "controlled by daemonsets.apps", Creates: true, Deletes: true, Fields: []string{"metadata.ownerReferences"}},
		{Resource: history.Resource, Of: "controlled by daemonsets.apps", Creates: true, Deletes: true, Fields: []string{"revision"}},
	}
}

// allOnNodeChange returns all sets when a node has come or gone, or has changed in what decides where pods run.
func allOnNodeChange(view projections.Reader, ch projections.Change) []controllers.Key {
	before, was := controllers.Of(ch.Before).(*corev1.Node)
	after, is := controllers.Of(ch.After).(*corev1.Node)
	if was && is && labels.Equals(before.Labels, after.Labels) && equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) &&
		before.Spec.Unschedulable == after.Spec.Unschedulable {
		return nil
	}
	var keys []controllers.Key
	for o := range view.List(daemonSets, "") {
		keys = append(keys, controllers.KeyOf(daemonSets, o.Ref.Namespace, o.Ref.Name))
	}
	return keys
}

// look is one look at one set.
type look struct {
	view     projections.Reader
	ds       *appsv1.DaemonSet
	at       *projections.Object
	now      time.Time
	hash     string // of the current template
	template *corev1.PodTemplateSpec
	kept     []*corev1.Pod
	again    time.Time
}

// Reconcile implements controllers.Controller. The key is a DaemonSet.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	ds, at, ok := controllers.Fetch[*appsv1.DaemonSet](view, key)
	if !ok {
		return controllers.Decision{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		return controllers.Decision{}, nil // validation refuses such selectors
	}
	kept, claims, err := pods.Claim(view, ds, kind, selector, ds.Status.ObservedGeneration != ds.Generation)
	if err != nil || len(claims) > 0 {
		return controllers.Decision{Commands: claims}, err
	}
	if ds.DeletionTimestamp != nil {
		return controllers.Decision{}, nil
	}
	revisions := history.Of(view, ds)
	wanted, err := history.Make(ds, kind, &ds.Spec.Template, ds.Status.CollisionCount)
	if err != nil {
		return controllers.Decision{}, err
	}
	current, record := history.Current(revisions, wanted)
	if len(record) > 0 {
		return controllers.Decision{Commands: record, Then: collision(view, ds, record[0])}, nil
	}
	l := &look{view: view, ds: ds, at: at, now: now, hash: current.Labels[appsv1.ControllerRevisionHashLabelKey], kept: kept}
	l.template = withTolerations(&ds.Spec.Template)
	l.template.Labels[appsv1.ControllerRevisionHashLabelKey] = l.hash
	return l.decide(revisions), nil
}

// collision counts that the name of a new revision belongs to another owner's, so that the next attempt takes another name.
func collision(view projections.Reader, ds *appsv1.DaemonSet, c commands.Command) func([]controllers.Outcome) controllers.Decision {
	return func(outcomes []controllers.Outcome) controllers.Decision {
		if !apierrors.IsAlreadyExists(outcomes[0].Err) {
			return controllers.Decision{}
		}
		there, ok := projections.Get[*appsv1.ControllerRevision](view, history.Resource, c.Namespace, c.Name)
		if owner := controllerOf(there, ok); !ok || owner == ds.UID {
			return controllers.Decision{}
		}
		next := ds.DeepCopy()
		count := int32(1)
		if ds.Status.CollisionCount != nil {
			count += *ds.Status.CollisionCount
		}
		next.Status.CollisionCount = &count
		return controllers.Decision{Commands: []commands.Command{controllers.UpdateStatus(resources.DaemonSets, next)}}
	}
}

// node is what a set wants of a node and has on it.
type node struct {
	name       string
	wanted     bool // a pod shall be started there
	kept       bool // a pod that runs there may stay
	old, fresh []*corev1.Pod
}

// decide mends which pods there are, then replaces old ones, then tells the status.
func (l *look) decide(revisions []*appsv1.ControllerRevision) controllers.Decision {
	all := l.nodes()
	create, remove := l.mend(all)
	if len(create)+len(remove) == 0 {
		create, remove = l.roll(all)
	}
	if len(create)+len(remove) > 0 {
		return l.act(create, remove)
	}
	d := controllers.Decision{Again: l.again}
	status := l.status(all)
	if !equality.Semantic.DeepEqual(status, l.ds.Status) {
		next := l.ds.DeepCopy()
		next.Status = status
		d.Commands = append(d.Commands, controllers.UpdateStatus(resources.DaemonSets, next))
	}
	d.Commands = append(d.Commands, history.CleanUp(revisions, l.ds.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
		hash := r.Labels[appsv1.ControllerRevisionHashLabelKey]
		return hash == l.hash || slices.ContainsFunc(l.kept, func(p *corev1.Pod) bool { return p.Labels[appsv1.ControllerRevisionHashLabelKey] == hash })
	})...)
	if len(l.kept) > 50 {
		d.Settle = min(time.Duration(len(l.kept))*100*time.Microsecond, 500*time.Millisecond)
	}
	return d
}

// nodes sorts the pods by the node that they are on or meant for.
func (l *look) nodes() []*node {
	by := map[string]*node{}
	var all []*node
	for n := range projections.List[*corev1.Node](l.view, nodes, "") {
		x := &node{name: n.Name}
		x.wanted, x.kept = fits(l.template, n)
		by[n.Name] = x
		all = append(all, x)
	}
	for _, p := range l.kept {
		x := by[target(p)]
		if x == nil {
			x = &node{name: target(p)} // a node that is gone: podgc removes what ran there
			by[x.name] = x
			all = append(all, x)
		}
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] == l.hash {
			x.fresh = append(x.fresh, p)
		} else {
			x.old = append(x.old, p)
		}
	}
	for _, x := range all {
		slices.SortFunc(x.old, byAge)
		slices.SortFunc(x.fresh, byAge)
	}
	return all
}

func byAge(a, b *corev1.Pod) int {
	if n := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); n != 0 {
		return n
	}
	return strings.Compare(a.Name, b.Name)
}

// mend returns the nodes that lack a pod, and the pods that are where they should not be, are one too many, or have ended.
func (l *look) mend(all []*node) (create []*node, remove []*corev1.Pod) {
	for _, x := range all {
		var alive []*corev1.Pod
		present := false
		for _, p := range slices.Concat(x.fresh, x.old) {
			switch {
			case p.DeletionTimestamp != nil:
				present = present || !pods.Finished(p) // its successor waits for it to end
			case pods.Finished(p):
				present = true
				if end := l.pause(p); end.After(l.now) {
					l.look(end)
				} else {
					remove = append(remove, p)
				}
			case !x.kept:
				remove = append(remove, p)
			default:
				alive = append(alive, p)
			}
		}
		switch {
		case x.wanted && len(alive) == 0 && !present:
			create = append(create, x)
		case len(alive) > 1 && !(l.surges() && len(x.old) > 0 && len(x.fresh) > 0 && len(alive) == 2):
			// One too many of the same template: those that run and are older stay.
			slices.SortStableFunc(alive, func(a, b *corev1.Pod) int { return rank(b) - rank(a) })
			remove = append(remove, alive[1:]...)
		}
	}
	return create, remove
}

func rank(p *corev1.Pod) int {
	switch {
	case pods.Ready(p):
		return 2
	case p.Spec.NodeName != "":
		return 1
	}
	return 0
}

func (l *look) pause(p *corev1.Pod) time.Time {
	end := p.CreationTimestamp.Time
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	return end.Add(failedPause)
}

func (l *look) look(at time.Time) {
	if l.again.IsZero() || at.Before(l.again) {
		l.again = at
	}
}

// act creates and deletes, and tells the user.
func (l *look) act(create []*node, remove []*corev1.Pod) controllers.Decision {
	prefix := l.ds.Name + "-"
	next := controllers.Names(prefix, l.ds.UID, l.at.Position, func(name string) bool {
		_, ok := l.view.Get(pods.Resource, l.ds.Namespace, name)
		return ok
	})
	owner := *metav1.NewControllerRef(l.ds, kind)
	d := controllers.Decision{Careful: len(remove) == 0}
	for _, x := range create {
		p := pods.FromTemplate(l.template, l.ds.Namespace, next(), prefix, owner)
		pinTo(&p.Spec, x.name)
		d.Commands = append(d.Commands, controllers.Create(resources.Pods, p))
	}
	failed := 0
	for _, p := range remove {
		d.Commands = append(d.Commands, controllers.Delete(resources.Pods, p))
		if p.Status.Phase == corev1.PodFailed {
			failed++
			d.Events = append(d.Events, controllers.Event{
				About: controllers.Reference(l.at), Type: corev1.EventTypeWarning, Reason: "FailedDaemonPod",
				Message: fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, p.Spec.NodeName),
			})
		}
	}
	about := controllers.Reference(l.at)
	d.Then = func(outcomes []controllers.Outcome) controllers.Decision {
		events, _ := pods.Told(about, outcomes)
		return controllers.Decision{Events: events}
	}
	d.Again = l.again
	return d
}

// status counts.
func (l *look) status(all []*node) appsv1.DaemonSetStatus {
	s := appsv1.DaemonSetStatus{ObservedGeneration: l.ds.Generation, CollisionCount: l.ds.Status.CollisionCount, Conditions: l.ds.Status.Conditions}
	for _, x := range all {
		alive := slices.Concat(x.fresh, x.old)
		alive = slices.DeleteFunc(alive, func(p *corev1.Pod) bool { return !pods.Active(p) })
		if !x.wanted {
			if len(alive) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(alive) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if alive[0].Labels[appsv1.ControllerRevisionHashLabelKey] == l.hash {
			s.UpdatedNumberScheduled++
		}
		ready, available := false, false
		for _, p := range alive {
			ready = ready || pods.Ready(p)
			ok, from := pods.Available(p, l.ds.Spec.MinReadySeconds, l.now)
			available = available || ok
			if !from.IsZero() {
				l.look(from)
			}
		}
		if ready {
			s.NumberReady++
		}
		if available {
			s.NumberAvailable++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}
