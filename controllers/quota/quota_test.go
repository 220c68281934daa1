package quota_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/quota"
	"github.com/shiplog/shiplog/controllers/resources"
)

func TestWhatIsUsed(t *testing.T) {
	pod := func(name, cpu string, edits ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
		if cpu != "" {
			l := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: l, Limits: l}
		}
		for _, e := range edits {
			e(p)
		}
		return p
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	important := func(p *corev1.Pod) { p.Spec.PriorityClassName = "important" }
	objects := []runtime.Object{
		pod("a", "500m"), pod("b", "1"), pod("best", ""), pod("vip", "2", important), pod("ended", "4", ended),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "x"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "v"}, Spec: corev1.PersistentVolumeClaimSpec{
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("3Gi")}},
		}},
	}
	for what, c := range map[string]struct {
		names    string
		scopes   []corev1.ResourceQuotaScope
		selector *corev1.ScopeSelector
		want     string
	}{
		"everything": {
			"pods cpu requests.cpu limits.cpu configmaps services services.nodeports requests.storage count/pods count/configmaps count/deployments.apps", nil, nil,
			"configmaps=1 count/configmaps=1 count/deployments.apps=0 count/pods=5 cpu=3500m limits.cpu=3500m pods=4 requests.cpu=3500m requests.storage=3Gi services=1 services.nodeports=2",
		},
		"best effort": {"pods", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}, nil, "pods=1"},
		"by priority": {"pods cpu", nil, &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"important"}},
		}}, "cpu=2 pods=1"},
	} {
		t.Run(what, func(t *testing.T) {
			q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}, Scopes: c.scopes, ScopeSelector: c.selector}}
			for _, n := range strings.Fields(c.names) {
				q.Spec.Hard[corev1.ResourceName(n)] = resource.MustParse("10")
			}
			key := controllers.KeyOf(resources.ResourceQuotas.GroupResource(), "default", "q")
			d := controllertest.When(t, quota.New(), controllertest.Given(append(objects, q)...), key, controllertest.Epoch)
			got := controllertest.Find[*corev1.ResourceQuota](t, d, "update resourcequotas/status default/q")
			var lines []string
			for _, n := range slices.Sorted(maps.Keys(got.Status.Used)) {
				v := got.Status.Used[n]
				lines = append(lines, fmt.Sprintf("%s=%s", n, v.String()))
			}
			if s := strings.Join(lines, " "); s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
			controllertest.Then(t, controllertest.When(t, quota.New(), controllertest.Given(append(objects, got)...), key, controllertest.Epoch))
		})
	}
}
