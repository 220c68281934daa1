package probes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxBody is how much of an answer is read, in bytes.
const maxBody = 10 << 10

// Exec runs a command in a container: nil when it ended with 0. Its output comes back for the message.
type Exec func(ctx context.Context, id string, command []string) (output string, err error)

// Executor asks for real.
type Executor struct {
	Exec      Exec
	transport http.RoundTripper
}

// NewExecutor returns an executor.
func NewExecutor(run Exec) *Executor {
	return &Executor{Exec: run, transport: &http.Transport{
		DisableKeepAlives: true,                                  // each question is one of a stranger, and costs nothing between
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as Kubernetes has it: a probe asks for life, not for identity
		Proxy:             nil,
	}}
}

// Transport is how the executor speaks HTTP; hooks speak it the same way.
func (e *Executor) Transport() http.RoundTripper { return e.transport }

// Ask implements Asker.
func (e *Executor) Ask(ctx context.Context, t Target, p *corev1.Probe) Answer {
	var err error
	switch {
	case p.Exec != nil:
		err = e.exec(ctx, t, p.Exec)
	case p.HTTPGet != nil:
		err = e.http(ctx, t, p.HTTPGet)
	case p.TCPSocket != nil:
		err = e.tcp(ctx, t, p.TCPSocket)
	case p.GRPC != nil:
		err = e.grpc(ctx, t, p.GRPC)
	default:
		return Answer{OK: true}
	}
	if err != nil {
		return Answer{Message: err.Error()}
	}
	return Answer{OK: true}
}

func (e *Executor) exec(ctx context.Context, t Target, a *corev1.ExecAction) error {
	out, err := e.Exec(ctx, t.ID, a.Command)
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("command timed out: %q", strings.Join(a.Command, " "))
	}
	if out = strings.TrimSpace(out); out != "" {
		return fmt.Errorf("%w: %s", err, out)
	}
	return err
}

// Port finds a port by its number or by its name among the container's.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		n = 0
		for _, port := range c.Ports {
			if port.Name == p.StrVal {
				n = int(port.ContainerPort)
			}
		}
		if n == 0 {
			var err error
			if n, err = strconv.Atoi(p.StrVal); err != nil {
				return 0, fmt.Errorf("the container has no port named %q", p.StrVal)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("%d is not a port", n)
	}
	return n, nil
}

func (e *Executor) http(ctx context.Context, t Target, a *corev1.HTTPGetAction) error {
	_, err := Get(ctx, e.transport, t, a)
	return err
}

// Get asks by HTTP; any status from 200 to 399 is a yes. Hooks use it as well.
func Get(ctx context.Context, transport http.RoundTripper, t Target, a *corev1.HTTPGetAction) (body string, err error) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return "", err
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	path := a.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse(path)
	if err != nil {
		return "", fmt.Errorf("reading the path %q: %w", a.Path, err)
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", "kube-probe/1.37")
	req.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		// Another host is not the container: its redirect is answer enough.
		if r.URL.Hostname() != u.Hostname() || len(via) > 10 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return string(text), fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return string(text), nil
}

func (e *Executor) tcp(ctx context.Context, t Target, a *corev1.TCPSocketAction) error {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return err
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func (e *Executor) grpc(ctx context.Context, t Target, a *corev1.GRPCAction) error {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port))),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return fmt.Errorf("asking the gRPC health service: %w", err)
	}
	if s := resp.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", s)
	}
	return nil
}

// Output keeps the beginning of what a command says.
type Output struct{ buf bytes.Buffer }

// Write implements io.Writer; what does not fit is dropped.
func (o *Output) Write(p []byte) (int, error) {
	if room := maxBody - o.buf.Len(); room > 0 {
		o.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (o *Output) String() string { return o.buf.String() }
