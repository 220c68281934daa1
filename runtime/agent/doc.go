// Package agent is the node: it follows the feed of what concerns it, keeps that on disk, and brings every pod to where the
// cluster wants it. Package plan decides, this package acts: sandboxes and containers (package containers), images, volumes,
// probes, network, services and DNS; and it tells the cluster what became of it: statuses, events, the node and its lease.
package agent
