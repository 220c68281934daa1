// Package api is the HTTP API of the cluster: the Kubernetes API over the registry (package commands/registry), the cluster as it
// was (/at/...), the feed of the node agents, and whatever else is mounted beside them. It owns TLS, authentication,
// authorization, discovery, health and the audit trail; what a request means is the registry's.
package api
