package disruption_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/disruption"
	"github.com/shiplog/shiplog/controllers/resources"
)

var now = controllertest.Epoch

func TestHowManyMayGo(t *testing.T) {
	four := int32(4)
	dep := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "dep"}, Spec: appsv1.DeploymentSpec{Replicas: &four}}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "web-1", UID: "rs", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(dep, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
	}, Spec: appsv1.ReplicaSetSpec{Replicas: &four}}
	pod := func(n int, ready, deleting, owned bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", n), UID: types.UID(fmt.Sprint(n)), Labels: map[string]string{"app": "web"}}}
		if owned {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		}
		if ready {
			controllertest.MakeReady(p, now)
		}
		if deleting {
			at := metav1.NewTime(now)
			p.DeletionTimestamp, p.Finalizers = &at, []string{"test/hold"}
		}
		return p
	}
	value := func(v intstr.IntOrString) *intstr.IntOrString { return &v }
	for _, c := range []struct {
		what       string
		min, max   *intstr.IntOrString
		disrupted  map[string]metav1.Time
		pods       []runtime.Object
		want       string // expected/desired/healthy/allowed
		allowedNow bool
	}{
		{"at least 2 of 3", value(intstr.FromInt32(2)), nil, nil, []runtime.Object{pod(1, true, false, true), pod(2, true, false, true), pod(3, true, false, true)}, "3/2/3/1", true},
		{"at least half, one missing", value(intstr.FromString("50%")), nil, nil, []runtime.Object{pod(1, true, false, true), pod(2, true, false, true), pod(3, true, false, true)}, "4/2/3/1", true},
		{"at most 1 away, one is", nil, value(intstr.FromInt32(1)), nil, []runtime.Object{pod(1, true, false, true), pod(2, true, false, true), pod(3, true, false, true), pod(4, false, false, true)}, "4/3/3/0", false},
		{"one is going", value(intstr.FromInt32(2)), nil, nil, []runtime.Object{pod(1, true, false, true), pod(2, true, true, true), pod(3, true, false, true)}, "3/2/2/0", false},
		{"an eviction under way", value(intstr.FromInt32(1)), nil, map[string]metav1.Time{"p1": metav1.NewTime(now.Add(-time.Minute))}, []runtime.Object{pod(1, true, false, true), pod(2, true, false, true)}, "2/1/1/0", false},
		{"an eviction that never came", value(intstr.FromInt32(1)), nil, map[string]metav1.Time{"p1": metav1.NewTime(now.Add(-3 * time.Minute))}, []runtime.Object{pod(1, true, false, true), pod(2, true, false, true)}, "2/1/2/1", true},
		{"pods that nobody controls", nil, value(intstr.FromInt32(1)), nil, []runtime.Object{pod(1, true, false, false), pod(2, true, false, false)}, "2/1/2/1", true},
		{"no pods", value(intstr.FromInt32(0)), nil, nil, nil, "0/0/0/0", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", Generation: 3},
				Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: c.min, MaxUnavailable: c.max, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
				Status:     policyv1.PodDisruptionBudgetStatus{DisruptedPods: c.disrupted},
			}
			d := controllertest.When(t, disruption.New(), controllertest.Given(append(c.pods, b, dep, rs)...), controllers.KeyOf(resources.PodDisruptionBudgets.GroupResource(), "default", "b"), now)
			s := controllertest.Find[*policyv1.PodDisruptionBudget](t, d, "update poddisruptionbudgets/status default/b").Status
			if got := fmt.Sprintf("%d/%d/%d/%d", s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed); got != c.want || s.ObservedGeneration != 3 {
				t.Errorf("%s, want %s", got, c.want)
			}
			if (s.Conditions[0].Status == metav1.ConditionTrue) != c.allowedNow {
				t.Errorf("condition %+v", s.Conditions[0])
			}
		})
	}
}
