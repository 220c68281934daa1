// Package e2e drives the built binary as a user would: kubectl against real clusters, with real containers where a node is
// involved, and the commands that look back.
package e2e
