package controllers

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/shiplog/shiplog/commands"
)

// meters are the metrics of a runtime.
type meters struct {
	runs      *prometheus.CounterVec
	deciding  *prometheus.HistogramVec
	commands  *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	leading   prometheus.Gauge
	positions prometheus.Gauge
}

func newMeters() *meters {
	return &meters{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shiplog_controller_runs_total", Help: "Keys reconciled, by what became of the decision.",
		}, []string{"controller", "result"}),
		deciding: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "shiplog_controller_decide_seconds", Help: "Time that Reconcile took.", Buckets: prometheus.ExponentialBuckets(1e-5, 4, 9),
		}, []string{"controller"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shiplog_controller_commands_total", Help: "Commands issued, by what became of them.",
		}, []string{"controller", "verb", "resource", "result"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shiplog_controller_waiting", Help: "Keys that wait for a worker, when the last one was taken up.",
		}, []string{"controller"}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shiplog_controller_leading", Help: "1 while the controllers of this process act, 0 otherwise.",
		}),
		positions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shiplog_controller_position", Help: "Log position up to which changes have been handed to controllers.",
		}),
	}
}

func (m *meters) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.runs, m.deciding, m.commands, m.waiting, m.leading, m.positions} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func (m *meters) decided(controller string, took time.Duration) {
	m.deciding.WithLabelValues(controller).Observe(took.Seconds())
}

func (m *meters) wait(controller string, keys int) {
	m.waiting.WithLabelValues(controller).Set(float64(keys))
}

func (m *meters) ended(controller, result string) { m.runs.WithLabelValues(controller, result).Inc() }

func (m *meters) followed(position uint64) { m.positions.Set(float64(position)) }

func (m *meters) commanded(controller string, c commands.Command, err error) {
	result := "ok"
	if err != nil {
		result = string(apierrors.ReasonForError(err))
		if result == "" {
			result = "error"
		}
	}
	m.commands.WithLabelValues(controller, string(c.Verb), c.Resource.Resource, result).Inc()
}
