package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/runtime/agent"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
	"github.com/shiplog/shiplog/runtime/network"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(childMain(dir))
	}
	os.Exit(m.Run())
}

// fixture is a node of the test's own, with a control plane in memory, which leaves nothing behind.
type fixture struct {
	t               testing.TB
	dir             string
	cp              *controlPlane
	certPEM, keyPEM []byte
	number          [2]byte
	net             *network.Network
	agent           *agent.Agent
	client          *http.Client
	clientCA        *x509.CertPool
	cancel          context.CancelFunc
	ended           chan error
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	runtimetest.NeedContainers(t)
	f := &fixture{t: t, dir: runtimetest.Dir(t), cp: newControlPlane()}
	runtimetest.BusyboxStore(t, filepath.Join(f.dir, "images"))
	f.makeNetwork()
	f.certificates()
	f.open()
	t.Cleanup(func() {
		f.stop()
		a, err := agent.New(f.config())
		if err != nil {
			t.Errorf("opening the node to tear it down: %v", err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := a.Teardown(ctx); err != nil {
			t.Errorf("tearing down: %v", err)
		}
		runtimetest.NoTrace(t, f.dir, "/"+filepath.Base(f.dir), filepath.Join(f.dir, "netns"))
	})
	return f
}

// makeNetwork gives the node a bridge and a range of addresses that no other test has.
func (f *fixture) makeNetwork() {
	f.t.Helper()
	_, _ = rand.Read(f.number[:])
	n, err := network.New(networkConfig(f.dir, f.number))
	if err != nil {
		f.t.Fatal(err)
	}
	f.net = n
}

func networkConfig(dir string, b [2]byte) network.Config {
	return network.Config{
		Bridge: fmt.Sprintf("slt%x", b), PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 192 | b[0]&31, b[1], 0}), 24),
		StateDir: filepath.Join(dir, "network"), ChainPrefix: fmt.Sprintf("SLT%X", b), Logger: slog.New(slog.DiscardHandler),
	}
}

func (f *fixture) config() agent.Config {
	return agent.Config{
		NodeName: "n1", DataDir: f.dir, Upstream: agent.Upstream{Source: f.cp, Bus: f.cp}, Kinds: domain.NewSet(domain.Kinds()),
		Network: f.net, NodeIP: netip.MustParseAddr("127.0.0.1"), Listen: "127.0.0.1:0", ClientCA: f.clientCA, NetnsDir: filepath.Join(f.dir, "netns"),
		CgroupRoot: "/" + filepath.Base(f.dir), LeasePeriod: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	}
}

func (f *fixture) open() {
	f.t.Helper()
	a, err := agent.New(f.config())
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.agent, f.cancel, f.ended = a, cancel, make(chan error, 1)
	go func() { f.ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-f.ended:
		f.ended <- err
		f.t.Fatalf("the node ended: %v", err)
	case <-time.After(time.Minute):
		f.t.Fatal("the node does not become ready")
	}
}

func (f *fixture) stop() {
	f.t.Helper()
	if f.cancel == nil {
		return // it has been stopped
	}
	f.cancel()
	f.cancel = nil
	if err := <-f.ended; err != nil {
		f.t.Errorf("the node ended: %v", err)
	}
}

func (f *fixture) certificates() {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	f.clientCA = x509.NewCertPool()
	f.clientCA.AddCert(parsed)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	f.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	f.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}}
}

// get asks the node's API.
func (f *fixture) get(method, path string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, "https://"+f.agent.Address()+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func newPod(name, script string, change ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uuid.NewString()), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "c", Image: "busybox", Command: []string{"sh", "-c", script}, ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: "/dev/termination-log",
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// until waits for a pod's status.
func (f *fixture) until(name, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
	f.t.Helper()
	var last *corev1.Pod
	defer func() {
		if f.t.Failed() && last != nil {
			f.t.Logf("the pod's last status: %+v", last.Status)
		}
	}()
	runtimetest.Eventually(f.t, what, func() bool {
		p, ok := f.cp.pod(name)
		if ok {
			last = p
		}
		return ok && holds(p)
	})
	return last
}

func (f *fixture) untilGone(name string) {
	f.t.Helper()
	runtimetest.Eventually(f.t, "the pod is gone", func() bool { _, ok := f.cp.pod(name); return !ok })
}

func (f *fixture) untilEvent(reason, part string) {
	f.t.Helper()
	runtimetest.Eventually(f.t, "the event "+reason, func() bool {
		return slices.ContainsFunc(f.cp.events(), func(e *corev1.Event) bool { return e.Reason == reason && strings.Contains(e.Message, part) })
	})
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

func state(p *corev1.Pod, i int) corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) <= i {
		return corev1.ContainerStatus{}
	}
	return p.Status.ContainerStatuses[i]
}

func TestPodRunsAndAnswers(t *testing.T) {
	f := newFixture(t)
	f.cp.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"color": "blue"}})
	f.cp.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"password": []byte("hush")}})
	f.cp.put("services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "store"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Name: "db", Port: 6379, Protocol: corev1.ProtocolTCP}},
	}})
	f.cp.put("pods", newPod("web", `mkdir /www; echo "hello from $POD_IP $COLOR $STORE_SERVICE_HOST $(cat /etc/key/password) $(cat /token/t)" > /www/index.html; echo begun; exec httpd -f -p 8080 -h /www`, func(p *corev1.Pod) {
		seconds := int64(3600)
		p.Spec.ServiceAccountName = "default"
		p.Spec.Volumes = []corev1.Volume{
			{Name: "key", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
			{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: &seconds}},
			}}}},
		}
		c := &p.Spec.Containers[0]
		c.VolumeMounts = []corev1.VolumeMount{{Name: "key", MountPath: "/etc/key"}, {Name: "settings", MountPath: "/etc/settings"}, {Name: "token", MountPath: "/token"}}
		c.Env = []corev1.EnvVar{
			{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "color"}}},
		}
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
	}))
	p := f.until("web", "the pod is ready", isReady)
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Status.StartTime == nil {
		t.Errorf("its status is %+v", p.Status)
	}
	if cs := state(p, 0); cs.State.Running == nil || !cs.Ready || cs.Started == nil || !*cs.Started || !strings.HasPrefix(cs.ContainerID, "shiplog://") || cs.ImageID == "" {
		t.Errorf("its container's status is %+v", cs)
	}
	if p.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("the scheduler's condition is gone: %+v", p.Status.Conditions)
	}
	resp, err := http.Get("http://" + net.JoinHostPort(p.Status.PodIP, "8080"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := fmt.Sprintf("hello from %s blue 10.96.0.7 hush token of default\n", p.Status.PodIP); string(body) != want {
		t.Errorf("it answers %q, want %q", body, want)
	}
	if code, log := f.get("GET", "/containerLogs/default/web/c"); code != http.StatusOK || log != "begun\n" {
		t.Errorf("its log is %d %q", code, log)
	}
	f.cp.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"color": "red"}})
	runtimetest.Eventually(t, "the file follows the config map", func() bool {
		code, out := f.get("POST", "/run/default/web/c?cmd=cat&cmd=/etc/settings/color")
		return code == http.StatusOK && out == "red"
	})
	for _, reason := range []string{"Created", "Started"} {
		f.untilEvent(reason, "")
	}
	f.cp.deletePod("web", 1)
	f.untilGone("web")
	f.untilEvent("Killing", "Stopping container c")
	runtimetest.Eventually(t, "the node has forgotten it", func() bool {
		_, list := f.get("GET", "/pods")
		return !strings.Contains(list, "web")
	})
}

func TestNodeRegistersAndLives(t *testing.T) {
	f := newFixture(t)
	o, ok := f.cp.get("nodes", "", "n1")
	if !ok {
		t.Fatal("there is no Node")
	}
	n := o.(*corev1.Node)
	if n.Status.Capacity.Pods().Value() != 110 || n.Status.Capacity.Memory().IsZero() || n.Status.Capacity.Cpu().IsZero() {
		t.Errorf("its capacity is %v", n.Status.Capacity)
	}
	if n.Labels[corev1.LabelHostname] != "n1" || n.Status.DaemonEndpoints.KubeletEndpoint.Port == 0 || len(n.Status.Images) == 0 {
		t.Errorf("the Node is %+v", n)
	}
	runtimetest.Eventually(t, "the node is Ready", func() bool {
		o, _ := f.cp.get("nodes", "", "n1")
		return slices.ContainsFunc(o.(*corev1.Node).Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
	renewed := func() time.Time {
		o, ok := f.cp.get("leases", corev1.NamespaceNodeLease, "n1")
		if !ok {
			return time.Time{}
		}
		return o.(*coordinationv1.Lease).Spec.RenewTime.Time
	}
	first := renewed()
	runtimetest.Eventually(t, "the lease is renewed", func() bool { return renewed().After(first) })
}

func TestCrashesBackOff(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("crash", "echo ouch; exit 3"))
	p := f.until("crash", "it is backed off from", func(p *corev1.Pod) bool {
		w := state(p, 0).State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	cs := state(p, 0)
	if cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.ExitCode != 3 || p.Status.Phase != corev1.PodRunning {
		t.Errorf("after the first restart it is %+v in phase %s", cs, p.Status.Phase)
	}
	if code, log := f.get("GET", "/containerLogs/default/crash/c?previous=true"); code != http.StatusOK || log != "ouch\n" {
		t.Errorf("the log of the run before is %d %q", code, log)
	}
}

func TestLivenessProbeRestarts(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("sick", "sleep 1000", func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
	}))
	f.until("sick", "it is restarted", func(p *corev1.Pod) bool { return state(p, 0).RestartCount >= 1 })
	f.untilEvent("Unhealthy", "Liveness probe failed")
	f.untilEvent("Killing", "failed liveness probe, will be restarted")
}

func TestInitContainersGoFirst(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("job", "cat /shared/order; echo main", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		mount := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = mount
		always := corev1.ContainerRestartPolicyAlways
		for _, c := range []struct{ name, script string }{{"one", "echo one >> /shared/order"}, {"side", "echo side >> /shared/order; sleep 1000"}, {"two", "echo two >> /shared/order"}} {
			ic := corev1.Container{Name: c.name, Image: "busybox", Command: []string{"sh", "-c", c.script}, VolumeMounts: mount, ImagePullPolicy: corev1.PullIfNotPresent}
			if c.name == "side" {
				ic.RestartPolicy = &always
				ic.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"grep", "side", "/shared/order"}}}}
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, ic)
		}
	}))
	p := f.until("job", "it has succeeded, its sidecar has ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded && p.Status.InitContainerStatuses[1].State.Terminated != nil
	})
	if _, log := f.get("GET", "/containerLogs/default/job/c"); log != "one\nside\ntwo\nmain\n" {
		t.Errorf("the order was %q", log)
	}
	if isReady(p) {
		t.Error("a pod that is through is ready")
	}
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name, reason, message string
		change                func(*corev1.Pod)
	}{
		{"noimage", "ImagePullBackOff", "nothing/like-it", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "127.0.0.1:1/nothing/like-it:1" }},
		{"never", "ErrImageNeverPull", "is not present with pull policy of Never", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nothing/at-all:1", corev1.PullNever
		}},
		{"noconfig", "CreateContainerConfigError", `configmap "absent" not found`, func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}}}}
		}},
		{"noprogram", "RunContainerError", "/no/such", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such"} }},
	} {
		f.cp.put("pods", newPod(c.name, "", c.change))
		f.until(c.name, c.reason, func(p *corev1.Pod) bool {
			w := state(p, 0).State.Waiting
			return w != nil && w.Reason == c.reason && strings.Contains(w.Message, c.message)
		})
	}
	f.cp.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "absent"}})
	f.until("noconfig", "it runs once its config map is there", func(p *corev1.Pod) bool {
		return state(p, 0).LastTerminationState.Terminated != nil || state(p, 0).State.Terminated != nil
	})
}

func TestRunsOnWithoutItsControlPlane(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("web", "sleep 1000"))
	before := state(f.until("web", "the pod is ready", isReady), 0).ContainerID
	f.stop()
	f.cp.setAway(true)
	a, err := agent.New(f.config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.agent, f.cancel, f.ended = a, cancel, make(chan error, 1)
	go func() { f.ended <- a.Run(ctx) }()
	runtimetest.Eventually(t, "the node knows its pod from its own disk", func() bool {
		return a.Address() != "" && len(a.Pods()) == 1
	})
	if st, err := a.Container("default", "web", "", "c", false); err != nil || "shiplog://"+st.ID != before {
		t.Errorf("it runs %s, %v; want %s", st.ID, err, before)
	}
	f.cp.setAway(false)
	select {
	case <-a.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the node does not become ready again")
	}
	if p, _ := f.cp.pod("web"); state(p, 0).ContainerID != before || state(p, 0).RestartCount != 0 {
		t.Errorf("its container was replaced: %+v", state(p, 0))
	}
}

func TestDeletedWhileAway(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("web", "sleep 1000"))
	f.until("web", "the pod is ready", isReady)
	f.stop()
	f.cp.mu.Lock()
	f.cp.remove(domain.Ref{Resource: "pods", Namespace: "default", Name: "web"})
	f.cp.mu.Unlock()
	f.open()
	runtimetest.Eventually(t, "its container is gone", func() bool {
		left, _ := filepath.Glob(filepath.Join(f.dir, "containers", "*"))
		boxes, _ := filepath.Glob(filepath.Join(f.dir, "sandboxes", "*"))
		return len(left)+len(boxes) == 0
	})
}

func TestOneAgentADirectory(t *testing.T) {
	f := newFixture(t)
	if a, err := agent.New(f.config()); err == nil {
		_ = a.Teardown(context.Background())
		t.Error("two agents in one directory")
	} else if !strings.Contains(err.Error(), "in use") {
		t.Errorf("the error is %v", err)
	}
}

func TestStrangersAreNotLetIn(t *testing.T) {
	f := newFixture(t)
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := stranger.Get("https://" + f.agent.Address() + "/pods")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger got %d", resp.StatusCode)
	}
	if code, body := f.get("GET", "/stats/summary"); code != http.StatusOK || !strings.Contains(body, `"nodeName":"n1"`) {
		t.Errorf("the API server got %d %s", code, body)
	}
	if _, err := os.Stat(agent.ImageSocket(f.dir)); err != nil {
		t.Error(err)
	}
}
