// Package dns answers the names of services and pods to a node's pods, as the Kubernetes DNS specification (version 1.1.0) says
// and CoreDNS does, and passes every other question on to the node's own name servers.
//
// A Zone is an immutable value: the answer to a question is a function of it. An update makes the next Zone from the last one
// and shares with it everything that did not change, so that questions are never held up and a change costs what it concerns.
package dns
