package graphql_test

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/shiplog/shiplog/domain"
)

func (w *world) kindOf(obj runtime.Object) schema.GroupKind {
	gvks, _, err := clientscheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return schema.GroupKind{} // of no known kind
	}
	return gvks[0].GroupKind()
}

func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t) }

func owned(kind, apiVersion, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: uidOf(kind, name), Controller: &yes}}
}

var web = map[string]string{"app": "web"}

func node(name string, ready bool) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": "a"}}}
	n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi")}
	n.Status.NodeInfo = corev1.NodeSystemInfo{KubeletVersion: "v1.37.2+shiplog", Architecture: "amd64", ContainerRuntimeVersion: "shiplog://1"}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: "Agent", LastTransitionTime: metaTime(begin)}}
	return n
}

func deployment(replicas int32, image string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: web, Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}}}
	d.Spec.Replicas, d.Spec.Selector = &replicas, &metav1.LabelSelector{MatchLabels: web}
	d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	d.Spec.Template.Labels = web
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: image}}
	return d
}

func webPod(name, nodeName string, ready bool) *corev1.Pod {
	return pod(name, "default", func(p *corev1.Pod) {
		p.Labels, p.OwnerReferences = web, owned("ReplicaSet", "apps/v1", "web-1")
		p.Spec.NodeName, p.Spec.ServiceAccountName = nodeName, "default"
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
		p.Status.Phase = corev1.PodPending
		if ready {
			p.Status.Phase, p.Status.PodIP = corev1.PodRunning, "10.1.0.7"
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metaTime(begin)}}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metaTime(begin)}}}}
		}
	})
}

// tell appends the story that the tests ask about: an application is deployed, runs, is scaled and loses a pod.
func (w *world) tell() {
	admin := because{user: "ada"}
	for _, name := range []string{"default", "other"} {
		w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}, because{user: "system:apiserver"})
	}
	w.put(node("n1", true), because{user: "system:node:n1"})
	w.put(node("n2", false), because{user: "system:node:n2"})
	w.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"}, Data: map[string]string{"mode": "fast"}, BinaryData: map[string][]byte{"logo": {1}}}, admin)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "password", Namespace: "default", Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"password":"aHVudGVyMg=="}}`}},
		Data:       map[string][]byte{"password": []byte("hunter2"), "user": []byte("root")},
	}
	w.put(secret, admin)
	created := w.put(deployment(1, "web:1"), admin)
	controller := because{user: "system:shiplog:controller", cause: &created}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "default", Labels: web, OwnerReferences: owned("Deployment", "apps/v1", "web"), Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}}}
	rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: web}
	rs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "web:1"}}
	set := w.put(rs, controller)
	first := w.put(webPod("web-1-a", "", false), because{user: "system:shiplog:controller", cause: &set})
	w.put(webPod("web-1-a", "n1", false), because{user: "system:kube-scheduler", cause: &first, subresource: "binding", evidence: `{"chosen":"n1","refused":{"n2":"not ready"}}`})
	w.put(webPod("web-1-a", "n1", true), because{user: "system:node:n1", subresource: "status"})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.2.0.1", ClusterIPs: []string{"10.2.0.1"}, Selector: web, SessionAffinity: corev1.ServiceAffinityNone, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http"), NodePort: 30001}}}
	w.put(svc, admin)
	ready, nodeName := true, "n1"
	w.put(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-x", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}, OwnerReferences: owned("Service", "v1", "web")},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: &nodeName, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-1-a"}}},
	}, because{user: "system:shiplog:controller"})
	w.put(&corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "web-1-b.1", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-1-b", UID: uidOf("Pod", "web-1-b")},
		Type:           "Normal", Reason: "Scheduled", Message: "placed on n1", ReportingController: "scheduler", LastTimestamp: metaTime(begin), Count: 1,
	}, because{user: "system:kube-scheduler"})
	w.put(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, Resources: []string{"pods"}}}}, admin)
	scaled := w.put(deployment(2, "web:1"), because{user: "grace"})
	w.put(webPod("web-1-b", "", false), because{user: "system:shiplog:controller", cause: &scaled})
	secret.Data["password"] = []byte("correct horse")
	w.put(secret, because{user: "grace"})
	w.append(domain.Event{Ref: ref(w, "secret", "default", "password"), Type: "RequestRefused", Command: domain.CommandInfo{Verb: "delete"}}, because{user: "mallory", evidence: `{"reason":"Forbidden"}`})
	w.put(pod("elsewhere", "other", nil), admin)
	w.remove(ref(w, "pod", "default", "web-1-a"), because{user: "system:node:n1"})
}
