package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/shiplog/shiplog/api/bootstrap"
	"github.com/shiplog/shiplog/api/inprocess"
	"github.com/shiplog/shiplog/api/join"
)

// begin brings the cluster to where users may come: the objects that every cluster has, and a server that answers.
func (s *Server) begin(ctx context.Context) error {
	if s.cfg.ReadOnly {
		return s.waitServing(ctx)
	}
	s.engine.Recover(s.cfg.Kinds.All())
	apiIP, err := ServiceIP(s.cfg.ServiceCIDR, 1)
	if err != nil {
		return err
	}
	dnsIP, err := ServiceIP(s.cfg.ServiceCIDR, 10)
	if err != nil {
		return err
	}
	maker := bootstrap.Maker{Bus: s.Bus(), Live: s.cfg.Live, Kinds: s.cfg.Kinds}
	began := time.Now()
	err = maker.Ensure(ctx, bootstrap.Cluster{
		ServiceCIDR: s.cfg.ServiceCIDR, APIService: apiIP, DNSService: dnsIP, Advertise: s.advertised(), Port: s.advertisedPort(),
	})
	if err != nil {
		return fmt.Errorf("making the objects that every cluster has: %w", err)
	}
	s.cfg.Logger.Debug("the objects that every cluster has are there", "took", time.Since(began))
	go join.NewSigner(join.SignerConfig{Live: s.cfg.Live, Bus: s.Bus(), PKI: s.cfg.PKI, Now: s.cfg.Now, Logger: s.cfg.Logger}).Run(ctx)
	go s.registry.SweepAddresses(ctx)
	go s.renewCertificates(ctx)
	return s.waitServing(ctx)
}

// renewEvery is how often the certificates are looked at.
const renewEvery = 12 * time.Hour

func (s *Server) renewCertificates(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.cfg.PKI.Renew(); err != nil {
			s.cfg.Logger.Error("renewing the cluster's certificates; trying again in half a day", "error", err)
		}
	}
}

// readyEvery is how often a server that starts is asked whether it is ready. It takes some microseconds, and whoever waits for a start
// waits for the last of the pauses.
const readyEvery = time.Millisecond

// waitServing waits until the server says that it is ready.
func (s *Server) waitServing(ctx context.Context) error {
	t := &inprocess.Transport{}
	t.Serve(s.generic.Handler)
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://in-process/readyz", nil)
		if err != nil {
			return fmt.Errorf("asking whether the server is ready: %w", err)
		}
		resp, err := t.RoundTrip(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(readyEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
