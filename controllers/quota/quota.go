// Package quota sums up what each ResourceQuota limits. Refusing what would exceed it is admission's business.
package quota

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	helpers "k8s.io/component-helpers/resource"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// settle is the least time between two sums of one quota: admission keeps them current in between.
const settle = time.Second

var quotas = resources.ResourceQuotas.GroupResource()

// Controller sums up.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "resourcequota-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: quotas, Why: "what is limited"},
		{Resource: controllers.AnyResource, Why: "what is used", Keys: used},
	}
}

// Outputs implements controllers.Controller. Admission writes the status too, under the same resourceVersion.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: quotas, Fields: []string{"status"}}}
}

// used returns the quotas of a namespace in which something has come or gone, or a pod has ended.
func used(view projections.Reader, ch projections.Change) []controllers.Key {
	ref := ch.Event.Ref
	if ref.Namespace == "" {
		return nil
	}
	if ch.Before != nil && ch.After != nil {
		switch ref.GroupResource() {
		case pods.Resource:
			before, okB := controllers.Of(ch.Before).(*corev1.Pod)
			after, okA := controllers.Of(ch.After).(*corev1.Pod)
			if !okB || !okA || pods.Finished(before) == pods.Finished(after) && before.Generation == after.Generation {
				return nil
			}
		case resources.Services.GroupResource(), resources.PersistentVolumeClaims.GroupResource():
		default:
			return nil
		}
	}
	var keys []controllers.Key
	for o := range view.List(quotas, ref.Namespace) {
		keys = append(keys, controllers.KeyOf(quotas, o.Ref.Namespace, o.Ref.Name))
	}
	return keys
}

// Reconcile implements controllers.Controller. The key is a ResourceQuota.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	q, _, ok := controllers.Fetch[*corev1.ResourceQuota](view, key)
	if !ok || q.DeletionTimestamp != nil {
		return controllers.Decision{}, nil
	}
	sum := usage(view, q)
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	for name := range q.Spec.Hard {
		status.Used[name] = sum[name]
	}
	d := controllers.Decision{Settle: settle}
	if !equality.Semantic.DeepEqual(status, q.Status) {
		next := q.DeepCopy()
		next.Status = status
		d.Commands = []commands.Command{controllers.UpdateStatus(resources.ResourceQuotas, next)}
	}
	return d, nil
}

// usage counts what the quota names.
func usage(view projections.Reader, q *corev1.ResourceQuota) corev1.ResourceList {
	sum := corev1.ResourceList{}
	add := func(name corev1.ResourceName, n resource.Quantity) {
		have := sum[name]
		have.Add(n)
		sum[name] = have
	}
	one := func(name corev1.ResourceName) { add(name, *resource.NewQuantity(1, resource.DecimalSI)) }
	for p := range projections.List[*corev1.Pod](view, pods.Resource, q.Namespace) {
		if !inScope(q, p) {
			continue
		}
		one("count/pods")
		if pods.Finished(p) {
			continue // it uses nothing any more
		}
		one(corev1.ResourcePods)
		for name, n := range helpers.PodRequests(p, helpers.PodResourcesOptions{}) {
			add(name, n)
			add(corev1.ResourceName("requests."+string(name)), n)
		}
		for name, n := range helpers.PodLimits(p, helpers.PodResourcesOptions{}) {
			add(corev1.ResourceName("limits."+string(name)), n)
		}
	}
	if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
		return sum // scopes are about pods only
	}
	for _, gvr := range []schema.GroupVersionResource{
		resources.Services, resources.ReplicationControllers, resources.ConfigMaps, resources.ResourceQuotas, resources.PersistentVolumeClaims,
		{Version: "v1", Resource: "secrets"},
	} {
		n := count(view, gvr.GroupResource(), q.Namespace)
		sum[corev1.ResourceName(gvr.Resource)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	for name := range q.Spec.Hard {
		if gr, ok := strings.CutPrefix(string(name), "count/"); ok && gr != "pods" {
			sum[name] = *resource.NewQuantity(count(view, schema.ParseGroupResource(gr), q.Namespace), resource.DecimalSI)
		}
	}
	for s := range projections.List[*corev1.Service](view, resources.Services.GroupResource(), q.Namespace) {
		nodePorts := int64(0)
		switch s.Spec.Type {
		case corev1.ServiceTypeNodePort:
			nodePorts = int64(len(s.Spec.Ports))
		case corev1.ServiceTypeLoadBalancer:
			one(corev1.ResourceServicesLoadBalancers)
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					nodePorts++
				}
			}
		}
		add(corev1.ResourceServicesNodePorts, *resource.NewQuantity(nodePorts, resource.DecimalSI))
	}
	for c := range projections.List[*corev1.PersistentVolumeClaim](view, resources.PersistentVolumeClaims.GroupResource(), q.Namespace) {
		size := c.Spec.Resources.Requests[corev1.ResourceStorage]
		add(corev1.ResourceRequestsStorage, size)
		if class := c.Spec.StorageClassName; class != nil && *class != "" {
			add(corev1.ResourceName(*class+".storageclass.storage.k8s.io/requests.storage"), size)
			one(corev1.ResourceName(*class + ".storageclass.storage.k8s.io/persistentvolumeclaims"))
		}
	}
	return sum
}

func count(view projections.Reader, gr domain.Resource, namespace string) int64 {
	n := int64(0)
	for range view.List(gr, namespace) {
		n++
	}
	return n
}

// inScope says whether a quota's scopes hold for a pod.
func inScope(q *corev1.ResourceQuota, p *corev1.Pod) bool {
	for _, s := range q.Spec.Scopes {
		if !holds(s, p) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, r := range q.Spec.ScopeSelector.MatchExpressions {
		if r.ScopeName == corev1.ResourceQuotaScopePriorityClass {
			has := slices.Contains(r.Values, p.Spec.PriorityClassName)
			ok := map[corev1.ScopeSelectorOperator]bool{
				corev1.ScopeSelectorOpIn: has, corev1.ScopeSelectorOpNotIn: !has,
				corev1.ScopeSelectorOpExists: p.Spec.PriorityClassName != "", corev1.ScopeSelectorOpDoesNotExist: p.Spec.PriorityClassName == "",
			}[r.Operator]
			if !ok {
				return false
			}
			continue
		}
		if !holds(r.ScopeName, p) {
			return false
		}
	}
	return true
}

func holds(s corev1.ResourceQuotaScope, p *corev1.Pod) bool {
	deadline := p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	switch s {
	case corev1.ResourceQuotaScopeTerminating:
		return deadline
	case corev1.ResourceQuotaScopeNotTerminating:
		return !deadline
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(p)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(p)
	case corev1.ResourceQuotaScopePriorityClass:
		return p.Spec.PriorityClassName != ""
	}
	return false
}

func bestEffort(p *corev1.Pod) bool {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass == corev1.PodQOSBestEffort
	}
	all := helpers.PodRequests(p, helpers.PodResourcesOptions{})
	maps.Copy(all, helpers.PodLimits(p, helpers.PodResourcesOptions{}))
	cpu, memory := all[corev1.ResourceCPU], all[corev1.ResourceMemory]
	return cpu.IsZero() && memory.IsZero()
}
