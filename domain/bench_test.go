package domain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// benchPod is a pod as a replica set makes it and a node runs it: about 3 KB of JSON.
func benchPod() *corev1.Pod {
	now := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	yes, root := true, int64(0)
	condition := func(t corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now}
	}
	managed := func(manager, subresource, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &now, FieldsType: "FieldsV1",
			Subresource: subresource, FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-6d4cf56db6-x7k2p", GenerateName: "web-6d4cf56db6-", Namespace: "default", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f",
			ResourceVersion: "12345", CreationTimestamp: now, Labels: map[string]string{"app": "web", "pod-template-hash": "6d4cf56db6"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-6d4cf56db6", UID: "b7a5c6de-12f3-4a5b-8c9d-0e1f2a3b4c5d", Controller: &yes, BlockOwnerDeletion: &yes}},
			ManagedFields: []metav1.ManagedFieldsEntry{
				managed("controllers", "", `{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"b7a5c6de-12f3-4a5b-8c9d-0e1f2a3b4c5d\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{}}},"f:dnsPolicy":{},"f:restartPolicy":{}}}`),
				managed("node", "status", `{"f:status":{"f:conditions":{"k:{\"type\":\"Ready\"}":{".":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:startTime":{}}}`),
			},
		},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			}}}}},
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example/web:1.2.3", ImagePullPolicy: corev1.PullIfNotPresent, Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
				Env:          []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "two"}},
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access-abcde", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, ServiceAccountName: "default", NodeName: "node-17", SecurityContext: &corev1.PodSecurityContext{RunAsUser: &root},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.0.0.17", PodIP: "10.244.17.9", PodIPs: []corev1.PodIP{{IP: "10.244.17.9"}}, StartTime: &now, QOSClass: corev1.PodQOSBurstable,
			Conditions: []corev1.PodCondition{condition(corev1.PodInitialized), condition(corev1.PodReady), condition(corev1.ContainersReady), condition(corev1.PodScheduled)},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "web", Ready: true, Started: &yes, Image: "registry.example/web:1.2.3", ImageID: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
				ContainerID: "shiplog://0123456789abcdef0123456789abcdef", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			}},
		},
	}
}

func benchConfigMap() *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"}, Data: map[string]string{}}
	for i := range 10 {
		cm.Data[fmt.Sprint("key-", i)] = strings.Repeat("value ", 10)
	}
	return cm
}

func mustEncode(b testing.TB, k *Kind, obj interface {
	metav1.Object
},
) []byte {
	b.Helper()
	switch o := obj.(type) {
	case *corev1.Pod:
		out, err := Encode(k, o)
		if err != nil {
			b.Fatal(err)
		}
		return out
	case *corev1.ConfigMap:
		out, err := Encode(k, o)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	b.Fatalf("unexpected %T", obj)
	return nil
}

func BenchmarkEncode(b *testing.B) {
	b.Run("Pod", func(b *testing.B) {
		k, pod := kindNamed(b, "pod"), benchPod()
		b.SetBytes(int64(len(mustEncode(b, k, pod))))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Encode(k, pod); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ConfigMap", func(b *testing.B) {
		k, cm := kindNamed(b, "configmap"), benchConfigMap()
		b.SetBytes(int64(len(mustEncode(b, k, cm))))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Encode(k, cm); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	b.Run("Pod", func(b *testing.B) {
		k := kindNamed(b, "pod")
		data := mustEncode(b, k, benchPod())
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(k, data, 7); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ConfigMap", func(b *testing.B) {
		k := kindNamed(b, "configmap")
		data := mustEncode(b, k, benchConfigMap())
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(k, data, 7); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchChange(b *testing.B) (before, after, delta []byte) {
	k, pod := kindNamed(b, "pod"), benchPod()
	before = mustEncode(b, k, pod)
	pod.Status.ContainerStatuses[0].RestartCount++
	pod.Status.Conditions[1].Status = corev1.ConditionFalse
	after = mustEncode(b, k, pod)
	delta, err := Diff(before, after)
	if err != nil {
		b.Fatal(err)
	}
	return before, after, delta
}

func BenchmarkDiff(b *testing.B) {
	before, after, _ := benchChange(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Diff(before, after); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPatch(b *testing.B) {
	before, _, delta := benchChange(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Patch(before, delta); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEventType(b *testing.B) {
	k, before, after := kindNamed(b, "pod"), benchPod(), benchPod()
	after.Labels["x"] = "y" // the last word of all
	b.ReportAllocs()
	for b.Loop() {
		if EventType(k, before, after) != "PodLabelsChanged" {
			b.Fatal("another word")
		}
	}
}

// benchEvent is a change that a node makes.
func benchEvent() Event {
	return Event{
		ID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f", Type: "PodNotReady", Ref: Ref{Resource: "pods", Namespace: "default", Name: "web-6d4cf56db6-x7k2p", UID: "u"}, Op: Changed,
		Actor: Actor{User: "system:node:node-17", Groups: []string{"system:nodes", "system:authenticated"}, UserAgent: "shiplog/agent"}, Command: CommandInfo{Verb: "update", Subresource: "status"},
		Correlation: "6a54-4f7e", Cause: &Cause{ID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f", Position: 7}, Time: time.Unix(1, 2),
	}
}

// BenchmarkFold reads events from the wire and applies them: a creation, nine changes.
func BenchmarkFold(b *testing.B) {
	before, after, delta := benchChange(b)
	back, err := Diff(after, before)
	if err != nil {
		b.Fatal(err)
	}
	type record struct{ data, metadata []byte }
	var log []record
	for i := range 10 {
		e := benchEvent()
		e.Change = delta
		if i == 0 {
			e.Op, e.Change = Created, before
		} else if i%2 == 0 {
			e.Change = back
		}
		data, metadata, err := MarshalEvent(e)
		if err != nil {
			b.Fatal(err)
		}
		log = append(log, record{data, metadata})
	}
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		var s State
		for i, r := range log {
			e, err := UnmarshalEvent("PodNotReady", "id", r.data, r.metadata, uint64(i+1), uint64(i), time.Time{})
			if err != nil {
				b.Fatal(err)
			}
			if s, err = s.Apply(e); err != nil {
				b.Fatal(err)
			}
			events++
		}
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkReplay folds 50 changes of a pod as a start from the log does: only what a fold needs is read, and the JSON is put
// together once.
func BenchmarkReplay(b *testing.B) {
	before, after, delta := benchChange(b)
	back, err := Diff(after, before)
	if err != nil {
		b.Fatal(err)
	}
	var log []Record
	for i := range 50 {
		e := benchEvent()
		switch {
		case i == 0:
			e.Op, e.Change = Created, before
		case i%2 == 0:
			e.Change = back
		default:
			e.Change = delta
		}
		data, metadata, err := MarshalEvent(e)
		if err != nil {
			b.Fatal(err)
		}
		log = append(log, Record{Type: e.Type, Data: data, Metadata: metadata, Position: uint64(i + 1), Revision: uint64(i)})
	}
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		var r Replay
		var known Known
		for _, record := range log {
			if ok, err := r.Step(record, &known); err != nil {
				b.Fatal(err)
			} else if !ok {
				e, ok := record.Brief()
				if !ok {
					b.Fatal("not read")
				}
				if err := r.Apply(e); err != nil {
					b.Fatal(err)
				}
				known = Known{Ref: e.Ref}
			}
			events++
		}
		if len(r.State().JSON) == 0 {
			b.Fatal("no object")
		}
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}
