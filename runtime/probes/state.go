// Package probes asks containers whether they have started, are alive and are ready: by a command, a TCP connection, an HTTP
// request or a gRPC health check. What follows from the answers is a function of values (Next); asking is at the edge.
package probes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind of a probe.
type Kind string

// Kinds.
const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Answer to one question.
type Answer struct {
	OK      bool
	Message string // why not
}

// State of a probe: what the answers so far come to.
type State struct {
	Passing bool // the result that holds
	Decided bool // false as long as no threshold has been reached
	Streak  int  // answers of the same kind in a row
	LastOK  bool
}

// First is the state before the first answer: a container is taken to be alive, and taken to be not ready and not started.
func First(kind Kind) State { return State{Passing: kind == Liveness} }

// Next takes an answer in and says whether it decides something: the first time a threshold is reached, and each time the
// result changes after that.
func Next(p *corev1.Probe, s State, a Answer) (next State, news bool) {
	if a.OK != s.LastOK {
		s.Streak = 0
	}
	s.LastOK = a.OK
	s.Streak++
	threshold := orDefault(p.FailureThreshold, 3)
	if a.OK {
		threshold = orDefault(p.SuccessThreshold, 1)
	}
	if s.Streak < threshold {
		return s, false
	}
	if s.Decided && s.Passing == a.OK {
		return s, false
	}
	s.Decided, s.Passing = true, a.OK
	return s, true
}

func orDefault(n int32, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return int(n)
}

// Period of a probe.
func Period(p *corev1.Probe) time.Duration {
	return time.Duration(orDefault(p.PeriodSeconds, 10)) * time.Second
}

// Timeout of one question.
func Timeout(p *corev1.Probe) time.Duration {
	return time.Duration(orDefault(p.TimeoutSeconds, 1)) * time.Second
}
