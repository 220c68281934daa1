package nodes

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Eviction deletes the pods that do not tolerate a NoExecute taint of their node, or no longer do.
type Eviction struct{}

// NewEviction makes the controller.
func NewEviction() controllers.Controller { return Eviction{} }

// Name implements controllers.Controller.
func (Eviction) Name() string { return "taint-eviction-controller" }

// Inputs implements controllers.Controller.
func (Eviction) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: pods.Resource, Why: "tolerations", Keys: ofTaintedPod},
		{Resource: nodes, Why: "NoExecute taints", Keys: ofTaintedNode},
	}
}

// Outputs implements controllers.Controller.
func (Eviction) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: pods.Resource, Of: "that do not tolerate their node", Deletes: true, Fields: []string{"status.conditions[DisruptionTarget]"}}}
}

// ofTaintedPod returns the pod when it has come to a node that has taints, or tolerates other ones.
func ofTaintedPod(view projections.Reader, ch projections.Change) []controllers.Key {
	p, ok := controllers.Of(ch.After).(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || p.DeletionTimestamp != nil {
		return nil
	}
	if before, ok := controllers.Of(ch.Before).(*corev1.Pod); ok && before.Spec.NodeName == p.Spec.NodeName && equality.Semantic.DeepEqual(before.Spec.Tolerations, p.Spec.Tolerations) {
		return nil
	}
	if n, ok := projections.Get[*corev1.Node](view, nodes, "", p.Spec.NodeName); !ok || len(noExecute(n)) == 0 {
		return nil
	}
	return []controllers.Key{controllers.KeyOf(pods.Resource, p.Namespace, p.Name)}
}

func ofTaintedNode(view projections.Reader, ch projections.Change) []controllers.Key {
	after, ok := controllers.Of(ch.After).(*corev1.Node)
	if !ok {
		return nil
	}
	var had []corev1.Taint
	if before, ok := controllers.Of(ch.Before).(*corev1.Node); ok {
		had = noExecute(before)
	}
	has := noExecute(after)
	if equality.Semantic.DeepEqual(had, has) {
		return nil
	}
	var keys []controllers.Key
	for o := range view.Index(pods.Resource, domain.NodeIndex, after.Name) {
		keys = append(keys, controllers.KeyOf(pods.Resource, o.Ref.Namespace, o.Ref.Name))
	}
	return keys
}

func noExecute(n *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

// Reconcile implements controllers.Controller. The key is a pod.
func (Eviction) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	p, at, ok := controllers.Fetch[*corev1.Pod](view, key)
	if !ok || p.DeletionTimestamp != nil || p.Spec.NodeName == "" || pods.Finished(p) {
		return controllers.Decision{}, nil
	}
	n, ok := projections.Get[*corev1.Node](view, nodes, "", p.Spec.NodeName)
	if !ok {
		return controllers.Decision{}, nil
	}
	until, bounded := toleratedUntil(p, noExecute(n), now)
	switch {
	case !bounded:
		return controllers.Decision{}, nil
	case until.After(now):
		return controllers.Decision{Again: until}, nil
	}
	marked := p.DeepCopy()
	pods.SetCondition(marked, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(now),
	})
	about := controllers.Reference(at)
	return controllers.Decision{
		Commands: []commands.Command{controllers.UpdateStatus(resources.Pods, marked)},
		Then: func([]controllers.Outcome) controllers.Decision {
			return controllers.Decision{
				Commands: []commands.Command{controllers.Delete(resources.Pods, p)},
				Events: []controllers.Event{{
					About: about, Type: corev1.EventTypeNormal, Reason: "TaintManagerEviction", Message: fmt.Sprintf("Marking for deletion Pod %s/%s", p.Namespace, p.Name),
				}},
			}
		},
	}, nil
}

// toleratedUntil returns until when a pod tolerates the taints of its node; bounded is false when it always does.
func toleratedUntil(p *corev1.Pod, taints []corev1.Taint, now time.Time) (until time.Time, bounded bool) {
	for _, t := range taints {
		since := now
		if t.TimeAdded != nil {
			since = t.TimeAdded.Time
		}
		tolerated, forever := false, false
		var least time.Duration
		for i := range p.Spec.Tolerations {
			tol := &p.Spec.Tolerations[i]
			if !tolerates(tol, &t) {
				continue
			}
			if tol.TolerationSeconds == nil {
				tolerated, forever = true, true
				continue
			}
			d := time.Duration(max(0, *tol.TolerationSeconds)) * time.Second
			if !tolerated || forever || d < least {
				least = d
			}
			tolerated, forever = true, false
		}
		if tolerated && forever {
			continue
		}
		end := since // not tolerated at all
		if tolerated {
			end = since.Add(least)
		}
		if !bounded || end.Before(until) {
			until = end
		}
		bounded = true
	}
	return until, bounded
}

func tolerates(tol *corev1.Toleration, t *corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	switch tol.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return tol.Key != "" && tol.Value == t.Value
	}
	return false
}
