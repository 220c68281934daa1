package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/shiplog/shiplog/runtime/agent"
	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/images/client"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

// rest is how the API server's libraries reach the node.
func (f *fixture) rest() *rest.Config {
	return &rest.Config{Host: "https://" + f.agent.Address(), TLSClientConfig: rest.TLSClientConfig{Insecure: true, CertData: f.certPEM, KeyData: f.keyPEM}}
}

func (f *fixture) url(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: f.agent.Address(), Path: path, RawQuery: query.Encode()}
}

func TestExecAndAttachOverTheWire(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("web", "while read line; do echo got $line; done", func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true }))
	f.until("web", "the pod is ready", isReady)
	exec := func(command string, in string, tty bool) (string, string, error) {
		q := url.Values{"command": {"sh", "-c", command}, "output": {"1"}}
		if !tty {
			q.Set("error", "1")
		} else {
			q.Set("tty", "1")
		}
		o := remotecommand.StreamOptions{Tty: tty}
		var out, errOut bytes.Buffer
		o.Stdout = &out
		if !tty {
			o.Stderr = &errOut
		}
		if in != "" {
			q.Set("input", "1")
			o.Stdin = strings.NewReader(in)
		}
		e, err := remotecommand.NewSPDYExecutor(f.rest(), http.MethodPost, f.url("/exec/default/web/c", q))
		if err != nil {
			t.Fatal(err)
		}
		err = e.StreamWithContext(t.Context(), o)
		return out.String(), errOut.String(), err
	}
	if out, errOut, err := exec("echo out; echo err >&2", "", false); err != nil || out != "out\n" || errOut != "err\n" {
		t.Errorf("exec: %q, %q, %v", out, errOut, err)
	}
	if out, _, err := exec("cat", "through and back", false); err != nil || out != "through and back" {
		t.Errorf("exec with input: %q, %v", out, err)
	}
	if out, _, err := exec("tty", "", true); err != nil || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("exec in a terminal: %q, %v", out, err)
	}
	_, _, err := exec("exit 42", "", false)
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 42 {
		t.Errorf("the exit code arrives as %v, want 42", err)
	}

	e, err := remotecommand.NewSPDYExecutor(f.rest(), http.MethodPost, f.url("/attach/default/web/c", url.Values{"input": {"1"}, "output": {"1"}}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, say := io.Pipe()
	var out runtimetest.Buffer
	done := make(chan error, 1)
	go func() { done <- e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out}) }()
	if _, err := io.WriteString(say, "hello\n"); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the attached container answers", func() bool { return out.String() == "got hello\n" })
	cancel()
	_ = say.Close()
	<-done
}

func TestPortForward(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("web", "mkdir /www; echo pong > /www/ping; exec httpd -f -p 127.0.0.1:8080 -h /www"))
	f.until("web", "the pod is ready", isReady)
	transport, upgrader, err := spdy.RoundTripperFor(f.rest())
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, f.url("/portForward/default/web", nil))
	stop, ready := make(chan struct{}), make(chan struct{})
	forward, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forward.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := forward.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	// The program in the pod listens on its loopback alone; it may need a moment to.
	runtimetest.Eventually(t, "the pod answers through the tunnel", func() bool {
		resp, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))) + "/ping")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return string(body) == "pong\n"
	})
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLogsFollow(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("talk", "echo one; echo two; until test -e /go; do sleep 0.05; done; echo three", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
	f.until("talk", "the pod is ready", isReady)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.agent.Address()+"/containerLogs/default/talk/c?follow=true&tailLines=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "both lines are written", func() bool { _, log := f.get("GET", "/containerLogs/default/talk/c"); return log == "one\ntwo\n" })
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "two\n" {
		t.Fatalf("the log begins with %q, %v", first, err)
	}
	if code, body := f.get("POST", "/run/default/talk/c?cmd=touch&cmd=/go"); code != http.StatusOK {
		t.Fatal(body)
	}
	rest, err := io.ReadAll(resp.Body) // ends with the container
	if err != nil || string(rest) != "three\n" {
		t.Errorf("then comes %q, %v", rest, err)
	}
}

func TestImageAPI(t *testing.T) {
	f := newFixture(t)
	c := client.New(agent.ImageSocket(f.dir))
	archive, err := os.Open(runtimetest.Archive(t, "hello:v1", runtimetest.Busybox(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Close() }()
	loaded, err := c.Load(t.Context(), archive)
	if err != nil || len(loaded) != 1 {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Tags) != 2 {
		t.Errorf("listed %+v, %v", list, err)
	}
	runtimetest.Eventually(t, "the Node shows it", func() bool {
		o, _ := f.cp.get("nodes", "", "n1")
		for _, i := range o.(*corev1.Node).Status.Images {
			for _, n := range i.Names {
				if n == "docker.io/library/hello:v1" {
					return true
				}
			}
		}
		return false
	})
	if said, err := c.Remove(t.Context(), "hello:v1"); err != nil || len(said) != 1 {
		t.Errorf("removing: %v, %v", said, err)
	}
	if _, err := c.Remove(t.Context(), "hello:v1"); err == nil || !strings.Contains(err.Error(), "no such image") {
		t.Errorf("removing it again: %v", err)
	}
	if _, err := c.Load(t.Context(), strings.NewReader("no archive")); err == nil || !strings.Contains(err.Error(), "not an image archive") {
		t.Errorf("loading no archive: %v", err)
	}
	if _, err := c.Pull(t.Context(), "127.0.0.1:1/x", nil, nil); err == nil || !strings.Contains(err.Error(), images.ErrUnreachable.Error()) {
		t.Errorf("pulling from nowhere: %v", err)
	}
}
