package containers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

// fixture is a runtime of the test's own, which leaves nothing behind.
type fixture struct {
	t      testing.TB
	dir    string
	group  string
	store  *images.Store
	r      *containers.Runtime
	image  images.Image
	exited chan containers.Status
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	runtimetest.NeedContainers(t)
	f := &fixture{t: t, dir: runtimetest.Dir(t), exited: make(chan containers.Status, 100)}
	f.group = "/" + filepath.Base(f.dir)
	f.store = runtimetest.BusyboxStore(t, filepath.Join(f.dir, "images"))
	var err error
	if f.image, err = f.store.Resolve("busybox"); err != nil {
		t.Fatal(err)
	}
	f.open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := f.r.Teardown(ctx); err != nil {
			t.Errorf("tearing down: %v", err)
		}
		if err := f.r.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		runtimetest.NoTrace(t, f.dir, f.group, f.netns())
	})
	return f
}

func (f *fixture) netns() string { return filepath.Join(f.dir, "netns") }

func (f *fixture) config() containers.Config {
	return containers.Config{
		Dir: f.dir, NetnsDir: f.netns(), CgroupRoot: f.group, Images: f.store, PodPidsLimit: 100,
		OnExit: func(s containers.Status) { f.exited <- s },
	}
}

func (f *fixture) open() {
	f.t.Helper()
	r, err := containers.New(f.config())
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := r.Recover(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.r = r
}

func newPod(script string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: types.UID(uuid.NewString())},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "busybox", Command: []string{"sh", "-c", script}, TerminationMessagePath: "/dev/termination-log",
		}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func (f *fixture) sandbox(p *corev1.Pod) {
	f.t.Helper()
	s, err := f.r.CreateSandbox(f.t.Context(), containers.SandboxConfig{ID: uuid.NewString(), Pod: p, Hostname: p.Name})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.r.StartPause(f.t.Context(), s); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) start(p *corev1.Pod) containers.Status {
	f.t.Helper()
	st, err := f.tryStart(p)
	if err != nil {
		f.t.Fatal(err)
	}
	return st
}

func (f *fixture) tryStart(p *corev1.Pod) (containers.Status, error) {
	return f.r.Start(f.t.Context(), containers.ContainerConfig{
		ID: uuid.NewString(), Pod: p, Container: &p.Spec.Containers[0], Image: f.image,
		LogPath: filepath.Join(f.dir, "logs", string(p.UID), "c", "0.log"),
	})
}

func (f *fixture) exec(id string, command ...string) string {
	f.t.Helper()
	var out, errOut bytes.Buffer
	if err := f.r.Exec(f.t.Context(), id, containers.ExecOptions{Command: command, Stdout: &out, Stderr: &errOut}); err != nil {
		f.t.Fatalf("running %q: %v: %s", command, err, errOut.String())
	}
	return strings.TrimSpace(out.String())
}

func (f *fixture) wait(id string) containers.Status {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	st, err := f.r.Wait(ctx, id)
	if err != nil {
		f.t.Fatalf("waiting for the container to end: %v", err)
	}
	return st
}

func TestContainerRunsAndTellsHowItEnded(t *testing.T) {
	f := newFixture(t)
	p := newPod(`echo out; echo err >&2; printf "last words" > /dev/termination-log; exit 3`)
	f.sandbox(p)
	st := f.wait(f.start(p).ID)
	if st.ExitCode != 3 || st.Reason != "Error" || st.Message != "last words" || st.FinishedAt.Before(st.StartedAt) {
		t.Errorf("it ended as %+v, want exit code 3, Error, \"last words\"", st)
	}
	if told := <-f.exited; told.ID != st.ID {
		t.Errorf("told of %s, want %s", told.ID, st.ID)
	}
	log, err := os.ReadFile(st.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" stdout F out\n", " stderr F err\n"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log %q lacks %q", log, want)
		}
	}
	if err := f.r.Remove(t.Context(), st.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.r.Get(st.ID); !errors.Is(err, containers.ErrNotFound) {
		t.Errorf("after the removal: %v, want ErrNotFound", err)
	}
}

func TestContainerSeesItsPod(t *testing.T) {
	f := newFixture(t)
	uid, fsGroup := int64(33), int64(2000)
	p := newPod("sleep 1000", func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid, FSGroup: &fsGroup}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
		}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	})
	f.sandbox(p)
	st := f.start(p)
	for _, c := range []struct{ what, script, want string }{
		{"hostname", "hostname", "p"},
		{"user and groups", "id -u; id -G", "33\n33 44 2000"},
		{"environment of the image", "echo $FROM_IMAGE", "yes"},
		{"loopback is up", "ip addr show lo | grep -c 127.0.0.1", "1"},
		{"shared memory", "df /dev/shm | tail -1 | cut -d' ' -f1", "shm"},
		{"seccomp filter", "grep Seccomp: /proc/self/status", "Seccomp:\t2"},
		{"its own processes", "test $(ps | wc -l) -lt 8 && echo few", "few"},
		{"proc is guarded", "cat /proc/kcore | wc -c", "0"},
	} {
		if got := f.exec(st.ID, "sh", "-c", c.script); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
	group := filepath.Join("/sys/fs/cgroup/%s", f.group, "pods/burstable/pod"+string(p.UID), st.ID)
	for _, c := range []struct{ controller, file, want string }{
		{"memory", "memory.limit_in_bytes", fmt.Sprint(32 << 20)},
		{"cpu", "cpu.cfs_quota_us", "50000"},
		{"cpu", "cpu.shares", "256"},
	} {
		if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
			c = map[string]struct{ controller, file, want string }{
				"memory.limit_in_bytes": {"", "memory.max", fmt.Sprint(32 << 20)},
				"cpu.cfs_quota_us":      {"", "cpu.max", "50000 100000"},
				"cpu.shares":            {"", "cpu.weight", "10"},
			}[c.file]
		}
		got, err := os.ReadFile(filepath.Join(fmt.Sprintf(group, c.controller), c.file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(got)) != c.want {
			t.Errorf("%s is %s, want %s", c.file, got, c.want)
		}
	}
	usage, err := f.r.Usage(st)
	if err != nil || usage.Memory == 0 || usage.Processes == 0 {
		t.Errorf("usage %+v, %v: want some", usage, err)
	}
}

func TestContainerOutOfMemory(t *testing.T) {
	f := newFixture(t)
	p := newPod("x=a; while true; do x=$x$x; done", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
	})
	f.sandbox(p)
	if st := f.wait(f.start(p).ID); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("it ended as %s with %d, want OOMKilled with 137", st.Reason, st.ExitCode)
	}
}

func TestContainerStops(t *testing.T) {
	for _, c := range []struct {
		name, script string
		grace        time.Duration
		code         int
	}{
		{"by its signal", `trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done`, 30 * time.Second, 7},
		{"killed when it does not listen", `trap '' TERM; echo ready; while true; do sleep 0.05; done`, 100 * time.Millisecond, 137},
		{"killed without grace", `echo ready; sleep 1000`, 0, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			p := newPod(c.script)
			f.sandbox(p)
			st := f.start(p)
			runtimetest.Eventually(t, "the container says that it is ready", func() bool {
				log, _ := os.ReadFile(st.LogPath)
				return strings.Contains(string(log), "ready")
			})
			got, err := f.r.Stop(t.Context(), st.ID, "", c.grace)
			if err != nil || got.ExitCode != c.code {
				t.Errorf("stopped with %d, %v; want %d", got.ExitCode, err, c.code)
			}
		})
	}
}

func TestStartFailsWithTheReason(t *testing.T) {
	f := newFixture(t)
	p := newPod("", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such/program"} })
	f.sandbox(p)
	_, err := f.tryStart(p)
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("the error is %v: want one that names the program", err)
	}
	if left := f.r.List(); len(left) > 0 {
		t.Errorf("a failed start left %v", left)
	}
	nonRoot := true
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &nonRoot}
	if _, err := f.tryStart(p); !errors.Is(err, containers.ErrConfig) {
		t.Errorf("root where runAsNonRoot: %v, want ErrConfig", err)
	}
}

func TestExec(t *testing.T) {
	f := newFixture(t)
	p := newPod("sleep 1000")
	f.sandbox(p)
	st := f.start(p)
	var out, errOut bytes.Buffer
	err := f.r.Exec(t.Context(), st.ID, containers.ExecOptions{
		Command: []string{"sh", "-c", "cat; echo no >&2; exit 5"}, Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errOut,
	})
	var exit *containers.ExitError
	if !errors.As(err, &exit) || exit.Code != 5 || out.String() != "in" || errOut.String() != "no\n" {
		t.Errorf("got %v, %q, %q; want exit code 5, \"in\", \"no\\n\"", err, out.String(), errOut.String())
	}
	if err := f.r.Exec(t.Context(), st.ID, containers.ExecOptions{Command: []string{"nothing-like-it"}}); err == nil || errors.As(err, &exit) && exit.Code == 0 {
		t.Errorf("a command that is not there: %v, want an error", err)
	}
	out.Reset()
	sizes := make(chan containers.TerminalSize, 1)
	sizes <- containers.TerminalSize{Width: 91, Height: 17}
	err = f.r.Exec(t.Context(), st.ID, containers.ExecOptions{
		Command: []string{"sh", "-c", "until test \"$(stty size)\" = \"17 91\"; do sleep 0.02; done; tty; stty size"}, TTY: true, Stdout: &out, Resize: sizes,
	})
	if err != nil || !strings.Contains(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "17 91") {
		t.Errorf("in a terminal: %v, %q; want a terminal of 17 rows and 91 columns", err, out.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.r.Exec(ctx, st.ID, containers.ExecOptions{Command: []string{"sleep", "12345"}}) }()
	runtimetest.Eventually(t, "the command runs", func() bool { return strings.Contains(f.exec(st.ID, "ps"), "sleep 12345") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled command: %v, want context.Canceled", err)
	}
	runtimetest.Eventually(t, "the command is killed", func() bool { return !strings.Contains(f.exec(st.ID, "ps"), "sleep 12345") })
}

func TestAttach(t *testing.T) {
	f := newFixture(t)
	p := newPod("read line; echo got $line; read again", func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true })
	f.sandbox(p)
	st := f.start(p)
	var out runtimetest.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- f.r.Attach(ctx, st.ID, containers.AttachOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out})
	}()
	runtimetest.Eventually(t, "the container answers", func() bool { return out.String() == "got hello\n" })
	cancel()
	<-done
	if now, err := f.r.Get(st.ID); err != nil || now.State != containers.Running {
		t.Errorf("after detaching it is %v, %v; want it running", now.State, err)
	}
}

func TestSharedProcessNamespace(t *testing.T) {
	f := newFixture(t)
	share := true
	p := newPod("sleep 1000", func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &share })
	f.sandbox(p)
	st := f.start(p)
	if got := f.exec(st.ID, "sh", "-c", "cat /proc/1/comm"); got != "pause" {
		t.Errorf("process 1 is %q, want pause", got)
	}
	// An orphan is adopted by process 1, which must reap it.
	f.exec(st.ID, "sh", "-c", "(sh -c 'exec sleep 0.01' &) ; true")
	runtimetest.Eventually(t, "the orphan is reaped", func() bool { return !strings.Contains(f.exec(st.ID, "ps", "-o", "stat"), "Z") })
}

func TestTakeover(t *testing.T) {
	f := newFixture(t)
	running := newPod("sleep 1000")
	f.sandbox(running)
	before := f.start(running)
	ending := newPod("until test -e /dev/shm/end; do sleep 0.02; done; exit 9")
	f.sandbox(ending)
	ended := f.start(ending)
	if err := f.r.Close(); err != nil {
		t.Fatal(err)
	}
	box, _ := f.r.Sandbox(string(ending.UID))
	if err := os.WriteFile(filepath.Join(box.ShmPath, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "conmon writes the exit file", func() bool {
		_, err := os.Stat(filepath.Join(f.dir, "exits", ended.ID))
		return err == nil
	})
	f.open()
	after, err := f.r.Get(before.ID)
	if err != nil || after.Pid != before.Pid || after.State != containers.Running || !after.StartedAt.Equal(before.StartedAt) {
		t.Errorf("taken over as %+v, %v; want %+v", after, err, before)
	}
	if st, err := f.r.Get(ended.ID); err != nil || st.State != containers.Exited || st.ExitCode != 9 {
		t.Errorf("the one that ended meanwhile is %+v, %v; want exit code 9", st, err)
	}
	if got := f.exec(before.ID, "echo", "here"); got != "here" {
		t.Errorf("it answers %q", got)
	}
}

func BenchmarkStart(b *testing.B) {
	f := newFixture(b)
	for b.Loop() {
		p := newPod("sleep 1000")
		f.sandbox(p)
		st := f.start(p)
		b.StopTimer()
		if err := f.r.Remove(b.Context(), st.ID); err != nil {
			b.Fatal(err)
		}
		if err := f.r.RemoveSandbox(b.Context(), string(p.UID)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
