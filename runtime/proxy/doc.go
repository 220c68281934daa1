// Package proxy makes services work on a node: it turns services and their endpoints into iptables rules that lead a connection
// to a cluster IP, a node port, a load balancer's or external address, or a pod's host port to one of the pods behind it.
//
// Rendering is pure: the same State gives the same text, whatever was rendered before. Applying keeps what was rendered and
// rewrites only the chains whose text changed, in one iptables-restore transaction. What the rules do follows kube-proxy's
// iptables mode; the dispatch differs: where kube-proxy asks one rule a service port in one chain, a packet here is led by the
// last byte of its destination to a chain that holds a 256th of them, so both the first packet of a connection and a change cost
// the same in a cluster of ten services and of ten thousand.
package proxy
