// Package eventstore holds the log: the one place where state lives. Log is the contract; package embedded keeps a log in a
// directory, package esdb in an EventStoreDB cluster, package protocol serves one over EventStoreDB's gRPC protocol, and
// package contract is the suite that every implementation passes.
package eventstore
