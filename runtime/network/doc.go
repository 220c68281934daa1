// Package network gives each pod of a node its address and its way out: a bridge that holds the gateway address, a veth pair a
// pod, forwarding, and masquerading of what leaves the cluster.
//
// What exists in the kernel is the truth: every device carries its meaning in its alias, so that an agent that was killed at
// any moment finds out what it had done. The file of addresses only adds what the kernel cannot remember over a reboot: which
// pod an address belongs to, and which was given out last.
package network
