// Package policy enforces NetworkPolicies on a node: it turns them into iptables chains and ipsets that say who may talk to whom,
// for each pod of the node that a policy selects. Pods that none selects are left alone.
//
// Rendering is pure. The sets are changed by swapping whole ones, the chains in one iptables-restore transaction, and in an order
// in which no packet meets a rule without its set. Traffic between a pod and its own node is always allowed, as Kubernetes has it:
// the node's probes must reach the pod, and the pod the node's name server.
package policy
