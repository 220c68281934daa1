package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// healthPort is what a load balancer asks a node by, for a service with externalTrafficPolicy Local: has it endpoints here?
type healthPort struct {
	service types.NamespacedName
	port    uint16
	local   int // ready endpoints on this node
}

// health returns the service's health-check port; none for most services.
func health(s *corev1.Service, ofNode func(*corev1.ServicePort) []endpoint) *healthPort {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || s.Spec.HealthCheckNodePort == 0 {
		return nil
	}
	h := &healthPort{service: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, port: uint16(s.Spec.HealthCheckNodePort)}
	addrs := map[string]bool{}
	for i := range s.Spec.Ports {
		for _, e := range ofNode(&s.Spec.Ports[i]) {
			if e.local && e.ready {
				addrs[e.addr.Addr().String()] = true
			}
		}
	}
	h.local = len(addrs)
	return h
}

// healthServers answers on the health-check ports.
type healthServers struct {
	log    *slog.Logger
	byPort map[uint16]*healthServer
}

type healthServer struct {
	port    healthPort
	local   atomic.Int64
	server  *http.Server
	running sync.WaitGroup
}

// update opens, closes and changes servers until they are those wanted. A port that cannot be opened is said in the log and
// tried again with the next change: the load balancer passes the node over, which is what should become of a node in trouble.
func (hs *healthServers) update(want map[types.NamespacedName]*healthPort) {
	wanted := map[uint16]*healthPort{}
	for _, h := range want {
		wanted[h.port] = h
	}
	for port, s := range hs.byPort {
		if h := wanted[port]; h == nil || h.service != s.port.service {
			s.close()
			delete(hs.byPort, port)
		}
	}
	for port, h := range wanted {
		s := hs.byPort[port]
		if s == nil {
			var err error
			if s, err = openHealthServer(*h); err != nil {
				hs.log.Warn("a health-check node port does not answer", "service", h.service, "error", err)
				continue
			}
			hs.byPort[port] = s
		}
		s.local.Store(int64(h.local))
	}
}

func openHealthServer(h healthPort) (*healthServer, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(h.port))))
	if err != nil {
		return nil, fmt.Errorf("listening for load balancers: %w", err)
	}
	s := &healthServer{port: h}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second}
	s.running.Go(func() { _ = s.server.Serve(l) }) // it ends when it is closed
	return s, nil
}

// ServeHTTP answers 200 when there are endpoints on this node, and 503 otherwise, with what kube-proxy tells.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	local := s.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service": map[string]string{"namespace": s.port.service.Namespace, "name": s.port.service.Name}, "localEndpoints": local,
	})
}

func (s *healthServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		_ = s.server.Close()
	}
	s.running.Wait()
}
