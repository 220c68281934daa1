package protocol

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// calls counts calls by service, method and how they ended. A nil one counts nothing.
type calls struct {
	ended   *prometheus.CounterVec
	running *prometheus.GaugeVec
}

func newCalls(registerer prometheus.Registerer) *calls {
	if registerer == nil {
		return nil
	}
	c := &calls{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shiplog_eventstore_calls_total", Help: "Calls of the event store's protocol that have ended, by gRPC code.",
		}, []string{"service", "method", "code"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shiplog_eventstore_calls_running", Help: "Calls of the event store's protocol that run, subscriptions among them.",
		}, []string{"service", "method"}),
	}
	registerer.MustRegister(c.ended, c.running)
	return c
}

// begin counts a call; what it returns is called when the call has ended.
func (c *calls) begin(fullMethod string) func(error) {
	if c == nil {
		return func(error) {}
	}
	service, method := service(fullMethod)
	c.running.WithLabelValues(service, method).Inc()
	return func(err error) {
		c.running.WithLabelValues(service, method).Dec()
		c.ended.WithLabelValues(service, method, status.Code(err).String()).Inc()
	}
}
