package probes_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/probes"
)

func TestNextWaitsForThresholds(t *testing.T) {
	p := &corev1.Probe{SuccessThreshold: 2, FailureThreshold: 3}
	for _, c := range []struct {
		name    string
		kind    probes.Kind
		answers string // y and n; an upper-case letter is one that is news
	}{
		{"ready after two", probes.Readiness, "yYyy"},
		{"one no breaks the streak", probes.Readiness, "ynyYy"},
		{"unready after three", probes.Readiness, "yYnnNn"},
		{"two noes are not enough", probes.Readiness, "yYnnynny"},
		{"never ready is news once", probes.Readiness, "nnNnn"},
		{"alive from the start, killed after three", probes.Liveness, "nnN"},
	} {
		s := probes.First(c.kind)
		for i, a := range c.answers {
			next, news := probes.Next(p, s, probes.Answer{OK: strings.EqualFold(string(a), "y")})
			s = next
			if want := strings.ToUpper(string(a)) == string(a); news != want {
				t.Errorf("%s: answer %d of %q: news is %v", c.name, i, c.answers, news)
			}
		}
	}
}

// asker answers as the test says, and notes when it was asked.
type asker struct {
	mu     sync.Mutex
	begun  time.Time
	asked  []string
	answer func(k corev1.Probe, at time.Duration) bool
}

func (a *asker) Ask(_ context.Context, _ probes.Target, p *corev1.Probe) probes.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := time.Since(a.begun)
	a.asked = append(a.asked, fmt.Sprintf("%s@%s", p.Exec.Command[0], at))
	return probes.Answer{OK: a.answer(*p, at), Message: "no"}
}

func probe(name string, delay, period int32) *corev1.Probe {
	return &corev1.Probe{InitialDelaySeconds: delay, PeriodSeconds: period, FailureThreshold: 2, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}}
}

func TestProbesRunOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asker{begun: time.Now(), answer: func(p corev1.Probe, at time.Duration) bool {
			switch p.Exec.Command[0] {
			case "startup":
				return at >= 4*time.Second
			case "liveness":
				return at < 20*time.Second
			}
			return true
		}}
		var results []string
		var mu sync.Mutex
		m := probes.New(probes.Config{Asker: a, Report: func(r probes.Result) {
			mu.Lock()
			defer mu.Unlock()
			results = append(results, fmt.Sprintf("%s=%v@%s", r.Kind, r.Passing, time.Since(a.begun)))
		}})
		s := probe("startup", 1, 3)
		s.FailureThreshold = 10
		m.Start(probes.Target{ID: "1", StartedAt: time.Now(), Container: &corev1.Container{
			StartupProbe: s, ReadinessProbe: probe("readiness", 0, 60), LivenessProbe: probe("liveness", 6, 10),
		}})
		time.Sleep(50 * time.Second)
		synctest.Wait()
		m.Close()
		want := []string{"startup@1s", "startup@4s", "liveness@6s", "liveness@16s", "liveness@26s", "liveness@36s", "readiness@4s"}
		slices.Sort(a.asked)
		slices.Sort(want)
		if !slices.Equal(a.asked, want) {
			t.Errorf("asked %v, want %v", a.asked, want)
		}
		if want := []string{"Startup=true@4s", "Readiness=true@4s", "Liveness=true@6s", "Liveness=false@36s"}; !slices.Equal(results, want) {
			t.Errorf("the results are %v, want %v", results, want)
		}
	})
}

func TestStoppedProbesAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asker{begun: time.Now(), answer: func(corev1.Probe, time.Duration) bool { return true }}
		m := probes.New(probes.Config{Asker: a, Report: func(probes.Result) {}})
		m.Start(probes.Target{ID: "1", StartedAt: time.Now(), Container: &corev1.Container{LivenessProbe: probe("liveness", 0, 1)}})
		time.Sleep(2500 * time.Millisecond)
		m.Stop("1")
		synctest.Wait()
		before := len(a.asked)
		time.Sleep(time.Minute)
		m.Close()
		if before != 3 || len(a.asked) != before {
			t.Errorf("asked %d times before the stop and %d after, want 3 and 0", before, len(a.asked)-before)
		}
	})
}

func TestAskForReal(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/headers" && (r.Header.Get("X-A") != "b" || r.Host != "example.com"):
			w.WriteHeader(http.StatusBadRequest)
		case r.URL.Path == "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	host, portText, _ := net.SplitHostPort(srv.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	hs := health.NewServer()
	hs.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(gs, hs)
	go func() { _ = gs.Serve(listener) }()
	defer gs.Stop()
	grpcPort := int32(listener.Addr().(*net.TCPAddr).Port)
	sick := "sick"
	e := probes.NewExecutor(func(_ context.Context, _ string, command []string) (string, error) {
		if command[0] == "false" {
			return "oh no", fmt.Errorf("exit code 1")
		}
		return "", nil
	})
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "b"}, {Name: "Host", Value: "example.com"}}}}
	}
	for _, c := range []struct {
		name    string
		handler corev1.ProbeHandler
		want    string // part of the message; empty is a yes
	}{
		{"http", get("/"), ""},
		{"http with headers", get("/headers"), ""},
		{"http 500", get("/bad"), "statuscode: 500"},
		{"http redirect to elsewhere", get("/away"), ""},
		{"http too slow", get("/slow"), "deadline exceeded"},
		{"a port without that name", corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("none")}}, "no port named"},
		{"tcp", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}, ""},
		{"tcp, nobody there", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(1)}}, "connection refused"},
		{"grpc", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: grpcPort}}, ""},
		{"grpc, not serving", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: grpcPort, Service: &sick}}, "unhealthy"},
		{"exec", corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, ""},
		{"exec fails", corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}, "oh no"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if c.name == "http too slow" {
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		}
		a := e.Ask(ctx, probes.Target{IP: host, Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}, &corev1.Probe{ProbeHandler: c.handler})
		cancel()
		if a.OK != (c.want == "") || !strings.Contains(a.Message, c.want) {
			t.Errorf("%s: %+v, want %q", c.name, a, c.want)
		}
	}
}
