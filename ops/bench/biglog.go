package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// The cluster of the big log: 400 applications of 30 pods, their configuration, and 200 nodes.
const (
	bigEvents  = 1_000_000
	bigNodes   = 200
	bigApps    = 400
	bigPods    = 12_000
	bigConfigs = 6_000
	bigObjects = 2*bigNodes + 4*bigApps + bigPods + bigConfigs // 20,000

	phases = 8 // the states that an object goes through, again and again
)

// life is how the objects of a kind live: all alike but for names, which stand in their JSON as words that are replaced.
type life struct {
	kind    *domain.Kind
	count   int
	states  [phases]string
	deltas  [phases]string // from the state before
	words   [phases]string // the events' types
	named   [phases]bool   // whether the delta holds a word that is replaced
	replace func(i int) *strings.Replacer
	name    func(i int) (namespace, name string)
}

// makeBigLog writes a log of 1,000,000 events of 20,000 objects into a directory.
func makeBigLog(ctx context.Context, dir string) (err error) {
	log, err := embedded.Open(dir, embedded.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	defer func() {
		if closed := log.Close(); err == nil {
			err = closed
		}
	}()
	lives, err := bigLives(domain.NewSet(domain.Kinds()))
	if err != nil {
		return err
	}
	// An object's events come five at a time, so that those of all objects lie mixed in the log.
	const batch, rounds, writers = 5, bigEvents / bigObjects / 5, 256
	for round := range rounds {
		work := make(chan func() error)
		failed := make(chan error, writers)
		var writing sync.WaitGroup
		for range writers {
			writing.Go(func() {
				for do := range work {
					if err := do(); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		send := func(do func() error) error {
			select {
			case work <- do:
				return nil
			case err := <-failed:
				return err
			}
		}
		for _, l := range lives {
			for i := range l.count {
				if err = send(func() error { return l.append(ctx, log, i, round*batch, batch) }); err != nil {
					break
				}
			}
		}
		close(work)
		writing.Wait()
		select {
		case err = <-failed:
		default:
		}
		if err != nil {
			return fmt.Errorf("writing the big log: %w", err)
		}
	}
	return nil
}

// append writes the events of an object from its n-th on.
func (l *life) append(ctx context.Context, log eventstore.Log, i, n, count int) error {
	expected := eventstore.NoStream
	if n > 0 {
		expected = eventstore.Exact(uint64(n - 1))
	}
	events := make([]eventstore.Proposed, count)
	stream := ""
	for k := range events {
		e := l.event(i, n+k)
		stream = e.Ref.Stream()
		var err error
		if events[k], err = eventstore.Propose(e); err != nil {
			return err
		}
	}
	_, err := log.Append(ctx, stream, expected, events...)
	return err
}

// event is the n-th event of an object.
func (l *life) event(i, n int) domain.Event {
	namespace, name := l.name(i)
	ref := l.kind.Ref(namespace, name)
	ref.UID = uidOf(l.kind.Resource, i)
	phase := n % phases
	e := domain.Event{
		ID: uuid.NewString(), Type: l.words[phase], Ref: ref, Op: domain.Changed,
		Actor: domain.Actor{User: "system:node:node-17", Groups: []string{"system:nodes", "system:authenticated"}}, Correlation: uuid.NewString(),
		Command: domain.CommandInfo{Verb: "patch", Subresource: "status", RequestID: uuid.NewString()},
		Time:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n*bigObjects+i) * time.Millisecond),
	}
	change := l.deltas[phase]
	if n == 0 {
		e.Op, e.Type, change = domain.Created, l.kind.Kind+"Created", l.states[0]
	}
	if n == 0 || l.named[phase] {
		change = l.replace(i).Replace(change)
	}
	e.Change = []byte(change)
	return e
}

func uidOf(resource string, i int) types.UID {
	return types.UID(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s/%d", resource, i)).String())
}

// bigLives are the kinds of the big log. A word in capitals in an object is replaced by what is the object's own.
func bigLives(kinds *domain.Set) ([]*life, error) {
	const hash = "5d5f8c9b7d"
	app := func(i int) string { return fmt.Sprintf("app-%d", i%bigApps) }
	namespace := func(i int) string { return fmt.Sprintf("team-%d", i%bigApps%40) }
	common := func(kind string, i int) []string {
		return []string{
			"UID", string(uidOf(kind, i)), "NAMESPACE", namespace(i), "APP", app(i), "NODE", fmt.Sprintf("node-%d", i%bigNodes),
			"DEPLOYMENT", string(uidOf("deployments", i%bigApps)), "REPLICASET", string(uidOf("replicasets", i%bigApps)), "SERVICE", string(uidOf("services", i%bigApps)),
			"ADDRESS", fmt.Sprintf("10.244.%d.%d", i/250%250, i%250), "INDEX", fmt.Sprintf("%05d", i),
		}
	}
	var lives []*life
	add := func(count int, name func(i int) (string, string), state func(phase int) runtime.Object) error {
		l := &life{count: count, name: name}
		for phase := range phases {
			typed := state(phase)
			k, ok := kinds.ByKind(typed.GetObjectKind().GroupVersionKind().GroupKind())
			if !ok {
				return fmt.Errorf("no kind is a %T", typed)
			}
			data, err := domain.Encode(k, typed)
			if err != nil {
				return err
			}
			l.kind, l.states[phase] = k, string(data)
		}
		for phase := range phases {
			before := (phase + phases - 1) % phases
			delta, err := domain.Delta(l.kind, []byte(l.states[before]), []byte(l.states[phase]))
			if err != nil {
				return err
			}
			l.deltas[phase], l.words[phase] = string(delta), domain.EventType(l.kind, state(before), state(phase))
		}
		resource := l.kind.Resource
		l.replace = func(i int) *strings.Replacer { return strings.NewReplacer(common(resource, i)...) }
		for phase, delta := range l.deltas {
			l.named[phase] = l.replace(0).Replace(delta) != delta
		}
		lives = append(lives, l)
		return nil
	}
	labels := map[string]string{"app": "APP"}
	at := func(phase int) metav1.Time { return metav1.NewTime(time.Date(2026, 1, 1, 0, phase, 0, 0, time.UTC)) }
	status := func(phase int) corev1.ConditionStatus {
		return map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[phase%2 == 0]
	}
	owner := func(version, kind, name, uid string) []metav1.OwnerReference {
		yes := true
		return []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes, BlockOwnerDeletion: &yes}}
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "NAMESPACE", Name: name, UID: "UID", Labels: labels, CreationTimestamp: at(0)}
	}
	template := corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: "web", Image: "registry.example/team/web:1.17.3", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Env: []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "DATABASE", Value: "postgres://db.example:5432/app"}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
			}},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile, ImagePullPolicy: corev1.PullIfNotPresent,
		}},
		RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler",
	}
	replicas := int32(bigPods / bigApps)
	selector := &metav1.LabelSelector{MatchLabels: labels}
	hashed := map[string]string{"app": "APP", "pod-template-hash": hash}
	for _, of := range []struct {
		count int
		name  func(i int) (string, string)
		state func(phase int) runtime.Object
	}{
		{bigNodes, func(i int) (string, string) { return "", fmt.Sprintf("node-%d", i) }, func(phase int) runtime.Object {
			n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "NODE", UID: "UID", CreationTimestamp: at(0)}}
			n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("110")}
			n.Status.Allocatable = n.Status.Capacity
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: at(phase), LastTransitionTime: at(0), Reason: "KubeletReady"}}
			return n
		}},
		{bigNodes, func(i int) (string, string) { return "kube-node-lease", fmt.Sprintf("node-%d", i) }, func(phase int) runtime.Object {
			holder, renewed := "NODE", metav1.NewMicroTime(at(phase).Time)
			return &coordinationv1.Lease{
				TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "NODE", UID: "UID"},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &renewed},
			}
		}},
		{bigApps, func(i int) (string, string) { return namespace(i), app(i) }, func(phase int) runtime.Object {
			d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta("APP")}
			d.Spec = appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template}}
			d.Status = appsv1.DeploymentStatus{Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas - int32(phase), AvailableReplicas: replicas - int32(phase)}
			return d
		}},
		{bigApps, func(i int) (string, string) { return namespace(i), app(i) + "-" + hash }, func(phase int) runtime.Object {
			r := &appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"}, ObjectMeta: meta("APP-" + hash)}
			r.Labels, r.OwnerReferences = hashed, owner("apps/v1", "Deployment", "APP", "DEPLOYMENT")
			r.Spec = appsv1.ReplicaSetSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: hashed}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: hashed}, Spec: template},
			}
			r.Status = appsv1.ReplicaSetStatus{Replicas: replicas, FullyLabeledReplicas: replicas, ReadyReplicas: replicas - int32(phase)}
			return r
		}},
		{bigApps, func(i int) (string, string) { return namespace(i), app(i) }, func(phase int) runtime.Object {
			s := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta("APP")}
			s.Annotations = map[string]string{"example.com/checked": at(phase).String()}
			s.Spec = corev1.ServiceSpec{Selector: labels, ClusterIP: "None", Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}
			return s
		}},
		{bigApps, func(i int) (string, string) { return namespace(i), app(i) + "-x7k2p" }, func(phase int) runtime.Object {
			e := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}, ObjectMeta: meta("APP-x7k2p"), AddressType: discoveryv1.AddressTypeIPv4}
			e.Labels = map[string]string{discoveryv1.LabelServiceName: "APP", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
			e.OwnerReferences = owner("v1", "Service", "APP", "SERVICE")
			ready := phase%2 == 0
			e.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"ADDRESS"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}
			return e
		}},
		{bigPods, func(i int) (string, string) { return namespace(i), fmt.Sprintf("%s-%s-%05d", app(i), hash, i) }, func(phase int) runtime.Object {
			p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: meta("APP-" + hash + "-INDEX"), Spec: template}
			p.Labels, p.OwnerReferences = hashed, owner("apps/v1", "ReplicaSet", "APP-"+hash, "REPLICASET")
			p.Spec.NodeName = "NODE"
			p.Status = corev1.PodStatus{
				Phase: corev1.PodRunning, PodIP: "ADDRESS", PodIPs: []corev1.PodIP{{IP: "ADDRESS"}},
				Conditions: []corev1.PodCondition{
					{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at(0)},
					{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: at(0)},
					{Type: corev1.PodReady, Status: status(phase), LastTransitionTime: at(phase)},
				},
				ContainerStatuses: []corev1.ContainerStatus{{
					Name: "web", Image: "registry.example/team/web:1.17.3", Ready: phase%2 == 0, RestartCount: int32(phase / 2),
					State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(phase / 2)}},
				}},
			}
			return p
		}},
		{bigConfigs, func(i int) (string, string) { return namespace(i), fmt.Sprintf("%s-config-%05d", app(i), i) }, func(phase int) runtime.Object {
			c := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta("APP-config-INDEX")}
			c.Data = map[string]string{"level": fmt.Sprint(phase), "config.yaml": strings.Repeat("key: value # of the application\n", 20)}
			return c
		}},
	} {
		if err := add(of.count, of.name, of.state); err != nil {
			return nil, fmt.Errorf("making the objects of the big log: %w", err)
		}
	}
	return lives, nil
}
