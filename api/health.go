package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/server/healthz"
)

// healthWait is how long a health check waits for an answer.
const healthWait = 2 * time.Second

// checkLog says whether the log answers and takes writes.
func (s *Server) checkLog() healthz.HealthChecker {
	return healthz.NamedCheck("event-log", func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), healthWait)
		defer cancel()
		if _, err := s.cfg.Log.Head(ctx); err != nil {
			return fmt.Errorf("the log does not answer: %w", err)
		}
		if w, ok := s.cfg.Log.(interface{ Writable() error }); ok {
			if err := w.Writable(); err != nil {
				return fmt.Errorf("the log takes no writes: %w", err)
			}
		}
		return nil
	})
}

// checkLive says whether the live view keeps up with the log.
func (s *Server) checkLive() healthz.HealthChecker {
	return healthz.NamedCheck("live-view", func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), healthWait)
		defer cancel()
		if _, err := s.engine.Current(ctx); err != nil {
			return fmt.Errorf("the live view does not keep up with the log: %w", err)
		}
		return nil
	})
}
