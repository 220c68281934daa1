// Package controllertest is for testing controllers. Given objects, When a key is reconciled, Then these commands: see Given.
// A Cluster is a command bus and a live view in memory, without admission or validation, that can refuse commands; a
// Simulation runs controllers and simulated nodes on it in an order drawn from a seed, with conflicts, stale views and crashes.
package controllertest
