// Package projections says how the cluster is read: Reader for what is (or was, at one position), History for what happened.
// Package live keeps the current state in memory, package postgres keeps current, history, audit and causes in Postgres,
// package nodefeed tells a node what concerns it. All are built from the log and can be built again.
package projections
