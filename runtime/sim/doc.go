// Package sim pretends to be nodes, thousands in one process: it registers Node objects, renews their leases and lets the pods
// that are bound to them live and die as stages, which are data, tell. It is for benchmarks, what-if and tests.
package sim
