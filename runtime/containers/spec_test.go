package containers_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

func allCapabilities() []string { return containers.CapabilitiesOf(1<<41 - 1) }

// specInput is a container with nothing special about it.
func specInput(change ...func(*containers.SpecInput)) containers.SpecInput {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
	in := containers.SpecInput{
		ID: "id-1", Pod: pod, Container: &pod.Spec.Containers[0], User: containers.User{Home: "/root"}, Hostname: "web",
		Image:       &v1.ConfigFile{Config: v1.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"run"}, Env: []string{"PATH=/bin", "LANG=C"}}},
		Namespaces:  containers.Namespaces{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		CgroupsPath: "/shiplog/pods/besteffort/poduid-1/id-1", RootPath: "/bundle/rootfs", NodeMemory: 8 << 30, OOMFloor: -1000, Capabilities: allCapabilities(),
	}
	for _, c := range change {
		c(&in)
	}
	return in
}

func TestSpecGolden(t *testing.T) {
	yes, no := true, false
	for name, in := range map[string]containers.SpecInput{
		"plain": specInput(),
		"rich": specInput(func(in *containers.SpecInput) {
			group := int64(2000)
			in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, SupplementalGroups: []int64{7}}
			in.Container.Command = []string{"/bin/$(WHAT)", "$$(WHAT)", "$(UNKNOWN)"}
			in.Container.Args = []string{"--on=$(WHERE)"}
			in.Container.WorkingDir = "/srv"
			in.Container.TTY = true
			in.Container.Resources = corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("1Gi")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("2Gi")},
			}
			in.Container.SecurityContext = &corev1.SecurityContext{
				ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
			}
			in.User = containers.User{UID: 33, GID: 33, Groups: []uint32{44}, Home: "/var/www"}
			in.Env = []corev1.EnvVar{{Name: "WHAT", Value: "serve"}, {Name: "WHERE", Value: "here"}, {Name: "LANG", Value: "de"}}
			in.Mounts = []containers.Mount{
				{HostPath: "/v/deep", ContainerPath: "/data/deep"},
				{HostPath: "/v/data", ContainerPath: "/data", ReadOnly: true},
				{HostPath: "/v/shm", ContainerPath: "/dev/shm", Propagation: corev1.MountPropagationHostToContainer},
			}
		}),
		"privileged": specInput(func(in *containers.SpecInput) {
			in.Container.SecurityContext = &corev1.SecurityContext{Privileged: &yes}
			in.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			in.Namespaces = containers.Namespaces{HostPID: true}
			in.CgroupV2 = true
		}),
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := containers.Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			runtimetest.Golden(t, "spec-"+name+".json", string(data)+"\n")
		})
	}
}

func TestCommandFollowsTheTable(t *testing.T) {
	for _, c := range []struct {
		name                string
		entrypoint, cmd     []string
		command, args, want []string
	}{
		{"neither", []string{"e"}, []string{"c"}, nil, nil, []string{"e", "c"}},
		{"command alone drops the image's arguments", []string{"e"}, []string{"c"}, []string{"x"}, nil, []string{"x"}},
		{"args alone", []string{"e"}, []string{"c"}, nil, []string{"y"}, []string{"e", "y"}},
		{"both", []string{"e"}, []string{"c"}, []string{"x"}, []string{"y"}, []string{"x", "y"}},
	} {
		in := specInput(func(in *containers.SpecInput) {
			in.Image.Config.Entrypoint, in.Image.Config.Cmd = c.entrypoint, c.cmd
			in.Container.Command, in.Container.Args = c.command, c.args
		})
		spec, err := containers.Spec(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, spec.Process.Args); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	if _, err := containers.Spec(specInput(func(in *containers.SpecInput) { in.Image.Config = v1.Config{} })); err == nil || !strings.Contains(err.Error(), "no command specified") {
		t.Errorf("an image without a command: %v", err)
	}
}

func TestSpecUser(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\n"
	const group = "root:x:0:\nweb:x:34:\nextra:x:44:www,other\n"
	uid, gid, yes := int64(33), int64(5), true
	for _, c := range []struct {
		name, image string
		sc          *corev1.SecurityContext
		want        containers.User
		fails       string
	}{
		{"nothing is root", "", nil, containers.User{Home: "/root"}, ""},
		{"a name", "www", nil, containers.User{UID: 33, GID: 34, Groups: []uint32{44}, Home: "/var/www", Name: "www"}, ""},
		{"a number that has a name", "33", nil, containers.User{UID: 33, GID: 34, Groups: []uint32{44}, Home: "/var/www"}, ""},
		{"a name and a group", "www:extra", nil, containers.User{UID: 33, GID: 44, Home: "/var/www", Name: "www"}, ""},
		{"a number without a name", "1234", nil, containers.User{UID: 1234, Home: "/"}, ""},
		{"runAsUser wins", "root", &corev1.SecurityContext{RunAsUser: &uid, RunAsGroup: &gid}, containers.User{UID: 33, GID: 5, Groups: []uint32{44}, Home: "/var/www"}, ""},
		{"a name that is not there", "nobody-like-it", nil, containers.User{}, "no \"nobody-like-it\""},
		{"root where none may be", "0", &corev1.SecurityContext{RunAsNonRoot: &yes}, containers.User{}, "runAsNonRoot"},
		{"a name where root may not be", "www", &corev1.SecurityContext{RunAsNonRoot: &yes}, containers.User{}, "non-numeric"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", SecurityContext: c.sc}}}}
			got, err := containers.SpecUser(pod, &pod.Spec.Containers[0], &v1.ConfigFile{Config: v1.Config{User: c.image}}, passwd, group)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("the error is %v, want one with %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := containers.ResolveUser("x", "", ""); !errors.Is(err, containers.ErrNoUser) {
		t.Errorf("an empty passwd: %v, want ErrNoUser", err)
	}
}

func TestExpandLeavesWhatItDoesNotKnow(t *testing.T) {
	lookup := func(name string) (string, bool) { v, ok := map[string]string{"A": "1", "B": ""}[name]; return v, ok }
	for in, want := range map[string]string{
		"$(A)": "1", "$(B)|": "|", "$(C)": "$(C)", "$$(A)": "$(A)", "$$$(A)": "$1", "$A": "$A", "$": "$", "$(A": "$(A", "a$(A)b$(A)": "a1b1", "$()": "$()",
	} {
		if got := containers.Expand(in, lookup); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		// Text in which nothing is asked for, or all of it is escaped, comes out as it was meant.
		s := rapid.StringMatching(`[a-z$()A-Z ]{0,20}`).Draw(t, "s")
		if got := containers.Expand(strings.ReplaceAll(s, "$", "$$"), lookup); got != s {
			t.Fatalf("escaped %q becomes %q", s, got)
		}
	})
}

func TestShares(t *testing.T) {
	for milli, want := range map[int64]uint64{0: 2, 1: 2, 250: 256, 1000: 1024, 1 << 40: 262144} {
		if got := containers.SharesOf(milli); got != want {
			t.Errorf("%dm is %d shares, want %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 0, 1: 1000, 500: 50000, 2000: 200000} {
		if got := containers.QuotaOf(milli); got != want {
			t.Errorf("%dm is a quota of %d, want %d", milli, got, want)
		}
	}
	for shares, want := range map[uint64]uint64{0: 0, 2: 1, 1024: 39, 262144: 10000} {
		if got := containers.WeightOf(shares); got != want {
			t.Errorf("%d shares weigh %d, want %d", shares, got, want)
		}
	}
}

func TestPodResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{
			{Name: "side", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("100m", "10Mi"), Limits: list("200m", "20Mi")}},
			{Name: "big", Resources: corev1.ResourceRequirements{Requests: list("2", "1Mi"), Limits: list("3", "1Mi")}},
		},
		Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Requests: list("500m", "50Mi"), Limits: list("1", "64Mi")}}},
	}}
	want := containers.PodResources{CPUShares: 2150, CPUQuota: 320000, Memory: 84 << 20, Pids: 9}
	if got := containers.PodResourcesOf(pod, 9); got != want {
		t.Errorf("the pod gets %+v, want %+v", got, want)
	}
	pod.Spec.Containers[0].Resources.Limits = nil
	if got := containers.PodResourcesOf(pod, 0); got.CPUQuota != 0 || got.Memory != 0 {
		t.Errorf("a pod with an unlimited container is limited: %+v", got)
	}
}

func TestDefaultSeccomp(t *testing.T) {
	allowed := func(s *specs.LinuxSeccomp, call string) bool {
		for _, r := range s.Syscalls {
			for _, n := range r.Names {
				if n == call && r.Action == specs.ActAllow && len(r.Args) == 0 {
					return true
				}
			}
		}
		return false
	}
	plain, err := containers.DefaultSeccomp(nil)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := containers.DefaultSeccomp([]string{"CAP_SYS_ADMIN"})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"read", "execve", "futex", "socketpair", "openat2"} {
		if !allowed(plain, call) {
			t.Errorf("%s is not allowed", call)
		}
	}
	for _, call := range []string{"mount", "unshare", "bpf", "setns", "kexec_load", "init_module", "keyctl", "userfaultfd", "io_uring_setup"} {
		if allowed(plain, call) {
			t.Errorf("%s is allowed", call)
		}
	}
	if !allowed(admin, "mount") || !allowed(admin, "clone3") {
		t.Error("CAP_SYS_ADMIN does not come with mount and clone3")
	}
}
