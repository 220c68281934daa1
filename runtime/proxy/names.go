package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// The chains, after the prefix. The hashed ones end with the hash of what they are about.
const (
	servicesChain    = "-SERVICES"    // nat: by destination; filter: cluster IPs without endpoints
	nodePortsChain   = "-NODEPORTS"   // nat: by port of the node
	hostPortsChain   = "-HOSTPORTS"   // nat: by port of the node, to its own pods
	postroutingChain = "-POSTROUTING" // nat: masquerades what is marked
	markChain        = "-MARK-MASQ"   // nat: marks for masquerading
	forwardChain     = "-FORWARD"     // filter: accepts what services forward
	externalsChain   = "-EXTERNALS"   // filter: node ports and external addresses without endpoints
	firewallChain    = "-FIREWALL"    // filter: load balancer addresses with source ranges
	localnetChain    = "-LOCALNET"    // filter: keeps the world off 127.0.0.0/8

	bucketFamily   = "-VIP-" // nat, filter: destinations with one last byte, in hex
	nodePortFamily = "-NP-"  // nat: 64 ports of the node and one protocol: T, U, S and the first port's hex
	clusterFamily  = "-SVC-" // nat: a service port's endpoints anywhere
	localFamily    = "-SVL-" // nat: a service port's endpoints on this node
	externalFamily = "-EXT-" // nat: a service port asked from outside
	rangesFamily   = "-FW-"  // nat: a service port's load balancer source ranges
	endpointFamily = "-SEP-" // nat: an endpoint of a service port
	hostPortFamily = "-HP-"  // nat: a host port
)

var fixedChains = []string{
	servicesChain, nodePortsChain, hostPortsChain, postroutingChain, markChain, forwardChain, externalsChain, firewallChain, localnetChain,
}

var chainFamilies = []string{
	bucketFamily, nodePortFamily, clusterFamily, localFamily, externalFamily, rangesFamily, endpointFamily, hostPortFamily,
}

// owns says whether the chain is one that this package makes under the prefix.
func owns(prefix, chain string) bool {
	rest, ok := strings.CutPrefix(chain, prefix)
	if !ok {
		return false
	}
	for _, name := range fixedChains {
		if rest == name {
			return true
		}
	}
	for _, family := range chainFamilies {
		if strings.HasPrefix(rest, family) {
			return true
		}
	}
	return false
}

// hashed names a chain by what it is about.
func hashed(prefix, family string, about ...string) string {
	h := sha256.New()
	for _, a := range about {
		h.Write([]byte(a))
		h.Write([]byte{0})
	}
	return prefix + family + base32.StdEncoding.EncodeToString(h.Sum(nil))[:hashLength]
}
