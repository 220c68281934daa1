// Package containers runs a pod's containers on this machine: OCI configurations carried out by runc (or crun) under conmon, so
// that containers outlive the agent, with a pause container that holds what the containers of a pod share. What runs is
// written down beside it, so that an agent that comes back recognises its containers and takes them over as they are.
package containers
