// Package server is the API of a node, as the kubelet has it: logs, exec, attach and port-forward for the API server that
// passes its clients' requests on, and figures for "kubectl top". Beside it, on a unix socket, is the image API for the
// machine's administrator.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/images"
)

// Node is what the API is about.
type Node interface {
	Name() string
	// Pods of this node with their newest statuses.
	Pods() []*corev1.Pod
	// Container finds a container of a pod: the latest, or the one before it. uid may be empty. Errors are ErrNotFound, or say
	// why the container has not started.
	Container(namespace, pod, uid, container string, previous bool) (containers.Status, error)
	Wait(ctx context.Context, id string) (containers.Status, error)
	Exec(ctx context.Context, id string, o containers.ExecOptions) error
	Attach(ctx context.Context, id string, o containers.AttachOptions) error
	// Netns is the network namespace of a pod, "" for the host's.
	Netns(namespace, pod, uid string) (string, error)
	Stats() NodeStats
	// ImageInUse says whether containers use an image.
	ImageInUse(id string) bool
}

// ErrNotFound says that there is no such pod or container on this node.
var ErrNotFound = errors.New("not found")

// Config of a server.
type Config struct {
	Node        Node
	Images      *images.Store
	ImageNews   func() // the images have changed
	Listen      string
	Cert        *tls.Certificate // nil: one for this process alone is made
	ClientCA    *x509.CertPool   // nil: nobody is let in but to /healthz
	ImageSocket string
	Logger      *slog.Logger
}

// Server of a node.
type Server struct {
	cfg    Config
	log    *slog.Logger
	https  net.Listener
	images net.Listener
}

// New begins to listen. Run comes next.
func New(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Logger}
	cert := cfg.Cert
	if cert == nil {
		made, err := selfSigned(cfg.Node.Name(), time.Now())
		if err != nil {
			return nil, err
		}
		cert = made
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for the node's API: %w: stop what listens there, or choose another address", err)
	}
	s.https = tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, ClientCAs: cfg.ClientCA, ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"http/1.1"}, // SPDY takes the connection over, which HTTP/2 does not allow
	})
	if cfg.ImageSocket == "" {
		return s, nil
	}
	if s.images, err = listenUnix(ctx, cfg.ImageSocket); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return s, nil
}

// listenUnix replaces a socket that an earlier process has left.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listening for the image API: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for the image API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listening for the image API: %w", err)
	}
	return l, nil
}

// Address is where the API listens.
func (s *Server) Address() net.Addr { return s.https.Addr() }

// Run serves until the context is done.
func (s *Server) Run(ctx context.Context) {
	quiet := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	base := func(net.Listener) context.Context { return ctx }
	node := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: quiet, BaseContext: base}
	image := &http.Server{Handler: s.imageHandler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: quiet, BaseContext: base}
	stop := context.AfterFunc(ctx, func() {
		_ = node.Close()
		_ = image.Close()
	})
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if s.images != nil {
			_ = image.Serve(s.images)
		}
	}()
	if err := node.Serve(s.https); err != nil && ctx.Err() == nil {
		s.log.Error("the node's API ended", "error", err)
	}
	<-ctx.Done()
	<-ended
}

// Handler is the node's API without the listening.
func (s *Server) Handler() http.Handler {
	open := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	open.HandleFunc("GET /healthz", ok)
	open.HandleFunc("GET /healthz/ping", ok)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /runningpods/", s.pods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics/resource", s.resourceMetrics)
	open.Handle("/", s.authenticated(mux))
	return open
}

// authenticated lets in whoever shows a certificate of the API server's authority: nobody else has business with a node.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.ClientCA == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized: the node's API wants a client certificate of the API server's authority", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	for _, p := range s.cfg.Node.Pods() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, &list)
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

// fail answers with an error in the words of the API.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, containers.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, errBadRequest), errors.Is(err, containers.ErrNotRunning):
		code = http.StatusBadRequest
	}
	http.Error(w, err.Error(), code)
}

var errBadRequest = errors.New("bad request")
