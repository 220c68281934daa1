package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

func aPod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u", Labels: map[string]string{"b": "2", "a": "1"}},
		Spec:       corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func TestPodFilesGolden(t *testing.T) {
	two := "2"
	cases := map[string]*corev1.Pod{
		"plain":     aPod(),
		"subdomain": aPod(func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db", "peers" }),
		"aliases": aPod(func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.9.9.9", Hostnames: []string{"old", "older"}}}
		}),
		"host network":                   aPod(func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		"host network and cluster names": aPod(func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet }),
		"the node's names":               aPod(func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }),
		"its own names": aPod(func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"example.com"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
		}),
		"more names": aPod(func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"example.com"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
		}),
		"long name": aPod(func(p *corev1.Pod) { p.Name = strings.Repeat("a", 62) + "-b" }),
	}
	names := make([]string, 0, len(cases))
	for n := range cases {
		names = append(names, n)
	}
	sort.Strings(names)
	node := parseResolver("# the node's\nnameserver 192.0.2.53\nsearch lan\noptions timeout:1\n")
	var b strings.Builder
	for _, n := range names {
		p := cases[n]
		host, full := hostname(p, "cluster.local")
		fmt.Fprintf(&b, "== %s: %s\n-- hosts\n%s-- resolv.conf\n%s\n", n, host, hostsFile(p, "127.0.0.1\tlocalhost node\n", "10.1.0.2", host, full), resolvConf(p, node, "10.96.0.10", "cluster.local"))
	}
	runtimetest.Golden(t, "podfiles.txt", b.String())
}

// objects are what environments are made of, in memory.
type objects struct {
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (o objects) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	c, ok := o.maps[name]
	return c, ok
}

func (o objects) Secret(_, name string) (*corev1.Secret, bool) {
	s, ok := o.secrets[name]
	return s, ok
}

func (o objects) Claim(_, _ string) (*corev1.PersistentVolumeClaim, bool) {
	return nil, false
}
func (o objects) PersistentVolume(string) (*corev1.PersistentVolume, bool) { return nil, false }

func someFields() fields {
	return fields{
		nodeName: "n1", hostIPs: []string{"10.0.0.1"}, podIPs: func(*corev1.Pod) []string { return []string{"10.1.0.2"} },
		allocatable: func() corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		},
	}
}

func TestEnvironmentGolden(t *testing.T) {
	yes := true
	o := objects{
		maps:    map[string]*corev1.ConfigMap{"m": {Data: map[string]string{"COLOR": "blue", "SIZE": "1"}}},
		secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"password": []byte("hush")}}},
	}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	p := aPod(func(p *corev1.Pod) {
		p.Spec.ServiceAccountName = "robot"
		c := &p.Spec.Containers[0]
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
		c.EnvFrom = []corev1.EnvFromSource{
			{Prefix: "M_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}},
		}
		c.Env = []corev1.EnvVar{
			{Name: "FIRST", Value: "1"},
			{Name: "SECOND", Value: "$(FIRST) $(M_COLOR) $(LATER) $$(FIRST) $(STORE_SERVICE_HOST)"},
			{Name: "LATER", Value: "3"},
			{Name: "FIRST", Value: "again"},
			{Name: "M_SIZE", Value: "2"},
			{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "password"}}},
			{Name: "NONE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "absent", Optional: &yes}}},
			{Name: "POD", ValueFrom: field("metadata.name")},
			{Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "HOST", ValueFrom: field("status.hostIP")},
			{Name: "LABEL", ValueFrom: field("metadata.labels['a']")},
			{Name: "ACCOUNT", ValueFrom: field("spec.serviceAccountName")},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.cpu"}}},
			{Name: "MEMORY", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		}
	})
	service := func(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	in := environmentInput{pod: p, container: &p.Spec.Containers[0], objects: o, fields: someFields(), services: []*corev1.Service{
		service("shop", "store", "10.96.0.7", corev1.ServicePort{Name: "db", Port: 6379, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Name: "stat-s", Port: 53, Protocol: corev1.ProtocolUDP}),
		service("shop", "headless", "None", corev1.ServicePort{Port: 1}),
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}),
	}}
	env, err := environment(in)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range env {
		fmt.Fprintf(&b, "%s=%s\n", e.Name, e.Value)
	}
	no := false
	p.Spec.EnableServiceLinks = &no
	if env, err = environment(in); err != nil {
		t.Fatal(err)
	}
	b.WriteString("-- without service links\n")
	for _, e := range env {
		if strings.Contains(e.Name, "SERVICE_HOST") {
			fmt.Fprintf(&b, "%s=%s\n", e.Name, e.Value)
		}
	}
	runtimetest.Golden(t, "environment.txt", b.String())
}

func TestDownwardFields(t *testing.T) {
	f := someFields()
	if got, err := f.Field(aPod(), "metadata.labels"); err != nil || got != "a=\"1\"\nb=\"2\"" {
		t.Errorf("labels are %q, %v", got, err)
	}
	if _, err := f.Field(aPod(), "spec.secret"); err == nil {
		t.Error("a field that is not of the downward API is given")
	}
	if _, err := f.Resource(aPod(), &corev1.ResourceFieldSelector{Resource: "limits.cpu"}, "absent"); err == nil {
		t.Error("a container that is not there has limits")
	}
}

func TestOwnEndpointsReplaceOthers(t *testing.T) {
	others := []*discoveryv1.EndpointSlice{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "store-x", Labels: map[string]string{discoveryv1.LabelServiceName: "store"}}},
	}
	got := withOwn(others, syntheticSlices(netip.MustParseAddr("10.1.0.1"), true, 40123))
	var names []string
	for _, s := range got {
		names = append(names, s.Namespace+"/"+s.Name)
	}
	if want := "shop/store-x kube-system/kube-dns-of-this-node default/kubernetes-of-this-node"; strings.Join(names, " ") != want {
		t.Errorf("the slices are %v, want %s", names, want)
	}
	if got[2].Endpoints[0].Addresses[0] != "10.1.0.1" || *got[2].Ports[0].Port != 40123 {
		t.Errorf("the API server is at %+v", got[2])
	}
}

func TestRotateKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 8 {
		if err := os.WriteFile(path, []byte(fmt.Sprint(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rotate(path, at.Add(time.Duration(i)*time.Second), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := filepath.Glob(path + ".*")
	if len(left) != maxLogFiles-1 || !strings.HasSuffix(left[0], "000004.000") {
		t.Errorf("left are %v, want the newest %d", left, maxLogFiles-1)
	}
}

func TestStatusPatchHoldsOnlyWhatChanged(t *testing.T) {
	base := aPod(func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, PodIP: "10.1.0.2", Conditions: []corev1.PodCondition{{Type: "Foreign", Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
	})
	status := *base.Status.DeepCopy()
	if patch, err := statusPatch(base, status); err != nil || patch != nil {
		t.Errorf("nothing changed and the patch is %s, %v", patch, err)
	}
	status.Phase = corev1.PodRunning
	status.Conditions[1].Status = corev1.ConditionTrue
	patch, err := statusPatch(base, status)
	want := `{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"Foreign"},{"type":"Ready"}],"conditions":[{"status":"True","type":"Ready"}],"phase":"Running"}}`
	if err != nil || string(patch) != want {
		t.Errorf("the patch is %s, %v\nwant %s", patch, err, want)
	}
}
