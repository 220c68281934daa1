package domain

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// step is one case: what an object becomes when edit is applied to a fresh one to which given was applied before.
func step[T runtime.Object](given, when func(T)) func(k *Kind) (before, after runtime.Object) {
	return func(k *Kind) (runtime.Object, runtime.Object) {
		b := k.New().(T)
		if given != nil {
			given(b)
		}
		a := b.DeepCopyObject().(T)
		when(a)
		return b, a
	}
}

// wordCase is a change and the word for it.
type wordCase struct {
	kind, want string
	change     func(k *Kind) (before, after runtime.Object)
}

func TestWords(t *testing.T) {
	for _, c := range wordCases() {
		t.Run(c.want, func(t *testing.T) {
			k := kindNamed(t, c.kind)
			before, after := c.change(k)
			if got := EventType(k, before, after); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// as is a case whose objects are given as JSON.
func as(kind, want, before, after string) wordCase {
	return wordCase{kind, want, func(k *Kind) (runtime.Object, runtime.Object) { return decoded(k, before), decoded(k, after) }}
}

func decoded(k *Kind, data string) runtime.Object {
	o := k.New()
	if err := json.Unmarshal([]byte(data), o); err != nil {
		panic(fmt.Sprintf("a %s in a test's table: %v: %s", k.Kind, err, data))
	}
	return o
}

// condition is an object whose status has one condition.
func condition(typ, status, reason string) string {
	return fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q,"reason":%q}]}}`, typ, status, reason)
}

// runs is an object whose pods run an image.
func runs(image string) string {
	return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image)
}

// wordCases has a change for every word that a kind has of its own.
func wordCases() []wordCase {
	type (
		pod    = *corev1.Pod
		node   = *corev1.Node
		deploy = *appsv1.Deployment
	)
	ready := func(s corev1.ConditionStatus) func(p pod) {
		return func(p pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: s}}
		}
	}
	nodeReady := func(s corev1.ConditionStatus) func(n node) {
		return func(n node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: s}}
		}
	}
	container := func(s corev1.ContainerStatus) func(p pod) {
		s.Name = "c"
		return func(p pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{s} }
	}
	waiting := func(reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	image := func(i, revision string) func(d deploy) {
		return func(d deploy) {
			d.Annotations = map[string]string{revisionAnnotation: revision}
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: i}}
		}
	}
	now := metav1.NewTime(time.Unix(1, 0))
	thirty := int64(30)
	two, holder, other := int32(2), "a", "b"
	micro := metav1.NewMicroTime(time.Unix(2, 0))

	return []wordCase{
		{"pod", "PodBound", step(nil, func(p pod) { p.Spec.NodeName = "n1" })},
		{"pod", "PodStarted", step(nil, func(p pod) { p.Status.Phase = corev1.PodRunning; ready(corev1.ConditionTrue)(p) })},
		{"pod", "PodReady", step(ready(corev1.ConditionFalse), ready(corev1.ConditionTrue))},
		{"pod", "PodNotReady", step(ready(corev1.ConditionTrue), ready(corev1.ConditionFalse))},
		{"pod", "PodSucceeded", step(ready(corev1.ConditionTrue), func(p pod) { p.Status.Phase = corev1.PodSucceeded; ready(corev1.ConditionFalse)(p) })},
		{"pod", "PodFailed", step(nil, func(p pod) { p.Status.Phase = corev1.PodFailed })},
		{"pod", "PodEvicted", step(nil, func(p pod) { p.Status.Phase = corev1.PodFailed; p.Status.Reason = "Evicted" })},
		{"pod", "PodEvicted", step(nil, func(p pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"}}
		})},
		{"pod", "PodDeletionRequested", step(nil, func(p pod) { p.DeletionTimestamp = &now })},
		{"pod", "PodTerminated", step(func(p pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &thirty }, func(p pod) { p.DeletionGracePeriodSeconds = new(int64) })},
		{"pod", "ContainerRestarted", step(container(corev1.ContainerStatus{RestartCount: 1}), container(corev1.ContainerStatus{RestartCount: 2}))},
		{"pod", "ContainerStarted", step(container(waiting("ContainerCreating")), container(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}))},
		{"pod", "ContainerExited", step(container(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}), container(corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}))},
		{"pod", "ContainerCrashLooping", step(container(corev1.ContainerStatus{}), container(waiting("CrashLoopBackOff")))},
		{"pod", "ImagePullFailed", step(container(waiting("ContainerCreating")), container(waiting("ErrImagePull")))},
		{"pod", "PodStatusChanged", step(container(waiting("ErrImagePull")), container(waiting("ImagePullBackOff")))},
		{"pod", "PodUnschedulable", step(nil, func(p pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable}}
		})},
		{"pod", "PodAddressAssigned", step(nil, func(p pod) { p.Status.PodIP = "10.0.0.1" })},
		{"pod", "PodLabelsChanged", step(nil, func(p pod) { p.Labels = map[string]string{"a": "b"} })},
		{"pod", "PodAnnotationsChanged", step(nil, func(p pod) { p.Annotations = map[string]string{"a": "b"} })},
		{"pod", "PodFinalizersChanged", step(nil, func(p pod) { p.Finalizers = []string{"x/y"} })},
		{"pod", "PodOwnersChanged", step(nil, func(p pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: "u"}} })},
		{"pod", "PodChanged", step(nil, func(p pod) { p.Spec.ActiveDeadlineSeconds = new(int64) })},

		{"deployment", "DeploymentScaled", step(nil, func(d deploy) { d.Spec.Replicas = &two })},
		{"deployment", "DeploymentChanged", step(nil, func(d deploy) { one := int32(1); d.Spec.Replicas = &one })},
		{"deployment", "DeploymentImageChanged", step(image("a", "2"), image("b", "2"))},
		{"deployment", "DeploymentRolledBack", step(image("b", "2"), image("a", "1"))},
		{"deployment", "DeploymentRolledBack", step(image("a", "2"), func(d deploy) {
			d.Annotations = map[string]string{revisionAnnotation: "3", revisionHistoryAnnotation: "1"}
		})},
		{"deployment", "DeploymentAnnotationsChanged", step(image("b", "1"), image("b", "2"))},
		{"deployment", "DeploymentTemplateChanged", step(nil, func(d deploy) { d.Spec.Template.Labels = map[string]string{"a": "b"} })},
		{"deployment", "DeploymentRestarted", step(nil, func(d deploy) {
			d.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
		})},
		{"deployment", "DeploymentPaused", step(nil, func(d deploy) { d.Spec.Paused = true })},
		{"deployment", "DeploymentResumed", step(func(d deploy) { d.Spec.Paused = true }, func(d deploy) { d.Spec.Paused = false })},
		{"deployment", "DeploymentProgressed", step(nil, func(d deploy) { d.Status.UpdatedReplicas = 1 })},
		{"deployment", "DeploymentCompleted", step(nil, func(d deploy) {
			d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas = 1, 1, 1
		})},
		{"deployment", "DeploymentDeletionRequested", step(nil, func(d deploy) { d.DeletionTimestamp = &now })},

		{"rs", "ReplicaSetScaled", step(nil, func(r *appsv1.ReplicaSet) { r.Spec.Replicas = &two })},
		{"rs", "ReplicaSetProgressed", step(nil, func(r *appsv1.ReplicaSet) { r.Status.ReadyReplicas = 1 })},
		{"rc", "ReplicationControllerScaled", step(nil, func(r *corev1.ReplicationController) { r.Spec.Replicas = &two })},

		{"node", "NodeReady", step(nodeReady(corev1.ConditionFalse), nodeReady(corev1.ConditionTrue))},
		{"node", "NodeNotReady", step(nodeReady(corev1.ConditionTrue), nodeReady(corev1.ConditionUnknown))},
		{"node", "NodeStatusChanged", step(nodeReady(corev1.ConditionFalse), nodeReady(corev1.ConditionUnknown))},
		{"node", "NodeCordoned", step(nil, func(n node) { n.Spec.Unschedulable = true; n.Spec.Taints = []corev1.Taint{{Key: "k"}} })},
		{"node", "NodeUncordoned", step(func(n node) { n.Spec.Unschedulable = true }, func(n node) { n.Spec.Unschedulable = false })},
		{"node", "NodeTainted", step(nil, func(n node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} })},
		{"node", "NodeUntainted", step(func(n node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }, func(n node) { n.Spec.Taints = nil })},

		{"service", "ServiceSelectorChanged", step(nil, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"a": "b"} })},
		{"service", "ServicePortsChanged", step(nil, func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 1}} })},
		//lint:ignore SA1019 deprecated, and still a part of the API
		{"endpoints", "EndpointsChanged", step(nil, func(e *corev1.Endpoints) { e.Subsets = []corev1.EndpointSubset{{}} })},
		{"endpointslices", "EndpointSliceChanged", step(nil, func(e *discoveryv1.EndpointSlice) { e.Endpoints = []discoveryv1.Endpoint{{}} })},
		{"ns", "NamespaceTerminating", step(nil, func(n *corev1.Namespace) { n.DeletionTimestamp = &now; n.Status.Phase = corev1.NamespaceTerminating })},
		{"configmap", "ConfigMapDataChanged", step(nil, func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"a": nil} })},
		{"secret", "SecretDataChanged", step(nil, func(s *corev1.Secret) { s.Data = map[string][]byte{"a": []byte("b")} })},
		{"role", "RoleRulesChanged", step(nil, func(r *rbacv1.Role) { r.Rules = []rbacv1.PolicyRule{{}} })},
		{"job", "JobCompleted", step(nil, func(j *batchv1.Job) {
			j.Status.Succeeded = 1
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		})},
		{"lease", "LeaseAcquired", step(func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = &other }, func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = &holder; l.Spec.RenewTime = &micro })},
		{"lease", "LeaseRenewed", step(func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = &holder }, func(l *coordinationv1.Lease) { l.Spec.RenewTime = &micro })},
		{"lease", "LeaseReleased", step(func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = &holder }, func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = nil })},
		{"event", "EventRepeated", step(nil, func(e *corev1.Event) { e.Count = 2 })},

		as("pod", "EphemeralContainerAdded", `{}`, `{"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox"}]}}`),
		as("pod", "PodImageChanged", `{"spec":{"containers":[{"name":"c","image":"a"}]}}`, `{"spec":{"containers":[{"name":"c","image":"b"}]}}`),
		as("pod", "PodResized", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}`, `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1500m"}}}]}}`),
		as("node", "NodeUnderPressure", `{}`, condition("MemoryPressure", "True", "KubeletHasInsufficientMemory")),
		as("node", "NodePressureRelieved", condition("DiskPressure", "True", ""), condition("DiskPressure", "False", "")),
		as("node", "NodeAddressChanged", `{}`, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`),
		as("ns", "NamespaceFinalized", `{"spec":{"finalizers":["kubernetes"]}}`, `{}`),
		as("service", "ServiceTypeChanged", `{"spec":{"type":"ClusterIP"}}`, `{"spec":{"type":"NodePort"}}`),
		as("service", "ServiceStatusChanged", `{}`, condition("Checked", "True", "")),
		as("rc", "ReplicationControllerImageChanged", runs("a"), runs("b")),
		as("rc", "ReplicationControllerStatusChanged", `{}`, `{"status":{"observedGeneration":2}}`),
		as("rs", "ReplicaSetImageChanged", runs("a"), runs("b")),
		as("rs", "ReplicaSetReused", `{}`, `{"metadata":{"annotations":{"deployment.kubernetes.io/revision-history":"1"}}}`),
		as("rs", "ReplicaSetStatusChanged", `{}`, `{"status":{"observedGeneration":2}}`),
		as("deployment", "DeploymentStalled", `{}`, condition("Progressing", "False", "ProgressDeadlineExceeded")),
		as("deployment", "DeploymentAvailable", `{}`, condition("Available", "True", "MinimumReplicasAvailable")),
		as("deployment", "DeploymentUnavailable", condition("Available", "True", ""), condition("Available", "False", "")),
		as("statefulset", "StatefulSetImageChanged", runs("a"), runs("b")),
		as("statefulset", "StatefulSetProgressed", `{}`, `{"status":{"replicas":1,"readyReplicas":1}}`),
		as("daemonset", "DaemonSetImageChanged", runs("a"), runs("b")),
		as("daemonset", "DaemonSetStatusChanged", `{}`, `{"status":{"observedGeneration":2}}`),
		as("job", "JobFailed", `{}`, condition("Failed", "True", "BackoffLimitExceeded")),
		as("job", "JobSuspended", `{}`, `{"spec":{"suspend":true}}`),
		as("job", "JobResumed", `{"spec":{"suspend":true}}`, `{"spec":{"suspend":false}}`),
		as("job", "JobStarted", `{}`, `{"status":{"startTime":"2026-01-02T03:04:05Z"}}`),
		as("job", "JobProgressed", `{}`, `{"status":{"active":1}}`),
		as("cronjob", "CronJobTriggered", `{}`, `{"status":{"lastScheduleTime":"2026-01-02T03:04:00Z"}}`),
		as("cronjob", "CronJobSuspended", `{}`, `{"spec":{"suspend":true}}`),
		as("cronjob", "CronJobResumed", `{"spec":{"suspend":true}}`, `{"spec":{"suspend":false}}`),
		as("hpa", "HorizontalPodAutoscalerDecided", `{}`, `{"status":{"desiredReplicas":3}}`),
		as("pdb", "DisruptionAllowanceChanged", `{}`, `{"status":{"disruptionsAllowed":1}}`),
		as("pv", "PersistentVolumeBound", `{}`, `{"status":{"phase":"Bound"}}`),
		as("pv", "PersistentVolumeReleased", `{"status":{"phase":"Bound"}}`, `{"status":{"phase":"Released"}}`),
		as("pv", "PersistentVolumeFailed", `{"status":{"phase":"Released"}}`, `{"status":{"phase":"Failed"}}`),
		as("pvc", "PersistentVolumeClaimBound", `{}`, `{"status":{"phase":"Bound"}}`),
		as("pvc", "PersistentVolumeClaimLost", `{"status":{"phase":"Bound"}}`, `{"status":{"phase":"Lost"}}`),
		as("pvc", "PersistentVolumeClaimResized", `{"spec":{"resources":{"requests":{"storage":"1Gi"}}}}`, `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`),
		as("volumeattachments", "VolumeDetached", `{"status":{"attached":true}}`, `{"status":{"attached":false}}`),
		as("volumeattachments", "VolumeAttachmentStatusChanged", `{}`, `{"status":{"attachError":{"message":"the device is busy"}}}`),
		as("quota", "ResourceQuotaUsed", `{}`, `{"status":{"used":{"pods":"2"}}}`),
		as("csr", "CertificateIssued", `{}`, `{"status":{"certificate":"LS0tCg=="}}`),
		as("csr", "CertificateSigningRequestApproved", `{}`, condition("Approved", "True", "")),
		as("csr", "CertificateSigningRequestDenied", `{}`, condition("Denied", "True", "")),
		as("csr", "CertificateSigningRequestFailed", `{}`, condition("Failed", "True", "")),
		as("resourceclaims", "ResourceClaimReleased", `{"status":{"allocation":{}}}`, `{"status":{}}`),
		as("resourceclaims", "ResourceClaimStatusChanged", `{}`, `{"status":{"reservedFor":[{"resource":"pods","name":"p","uid":"u"}]}}`),
	}
}

func TestWordsOfCreationAndDeletion(t *testing.T) {
	for kind, want := range map[string][2]string{"pod": {"PodCreated", "PodDeleted"}, "node": {"NodeRegistered", "NodeDeleted"}, "lease": {"LeaseCreated", "LeaseDeleted"}} {
		k := kindNamed(t, kind)
		if got := EventType(k, nil, k.New()); got != want[0] {
			t.Errorf("created: got %s, want %s", got, want[0])
		}
		if got := EventType(k, k.New(), nil); got != want[1] {
			t.Errorf("deleted: got %s, want %s", got, want[1])
		}
	}
}

func TestIndexes(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", OwnerReferences: []metav1.OwnerReference{{UID: "u"}, {UID: "v"}}}, Spec: corev1.PodSpec{
		ServiceAccountName: "sa",
		ImagePullSecrets:   []corev1.LocalObjectReference{{Name: "pull"}},
		Containers: []corev1.Container{{
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "all"}}}},
			Env: []corev1.EnvVar{
				{Name: "plain", Value: "v"},
				{Name: "s", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}}},
			},
		}},
		Volumes: []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
			{Name: "b", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}}}}}}},
			{Name: "d", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		},
	}}
	want := map[string][]string{
		OwnerIndex:  {"u", "v"},
		NodeIndex:   {""},
		RefersIndex: {"serviceaccounts/sa", "secrets/pull", "configmaps/all", "secrets/key", "persistentvolumeclaims/data", "configmaps/ca", "persistentvolumeclaims/p-d"},
	}
	for _, ix := range kindNamed(t, "pod").Indexes {
		got := ix.Values(p)
		if len(got) != len(want[ix.Name]) {
			t.Errorf("%s: got %q, want %q", ix.Name, got, want[ix.Name])
			continue
		}
		for i := range got {
			if got[i] != want[ix.Name][i] {
				t.Errorf("%s: got %q, want %q", ix.Name, got, want[ix.Name])
				break
			}
		}
	}
}
