package xtables

import (
	"bytes"
	"slices"
	"strings"
)

// Chain names a chain of a table.
type Chain struct{ Table, Name string }

// PolicyChain is the chain, after the prefix, in which network policies are asked. Other rooms' jumps come after the one to it:
// what a policy forbids is not let through for being a service's, or a pod's.
const PolicyChain = "-POLICY"

// RestoreText is the input for iptables-restore --noflush that makes the chains listed say what the map says, and deletes the
// ones that it does not hold. leavesFirst ranks chains such that one comes after every chain that its rules lead to. Each table
// is one transaction unless it changes more chains than atOnce (0: any number); then it is several, in an order in which every
// rule leads to a chain that is there and complete.
func RestoreText(changed []Chain, chains map[Chain]string, leavesFirst func(name string) int, atOnce int) []byte {
	type ranked struct {
		Chain
		rank int
		keep bool
	}
	list := make([]ranked, len(changed))
	size := 0
	for i, id := range changed {
		_, keep := chains[id]
		list[i] = ranked{id, leavesFirst(id.Name), keep}
		size += len(chains[id]) + 2*len(id.Name) + 16
	}
	slices.SortFunc(list, func(a, b ranked) int {
		if c := strings.Compare(a.Table, b.Table); c != 0 {
			return c // filter comes before nat
		}
		switch {
		case a.keep != b.keep && a.keep:
			return -1
		case a.keep != b.keep:
			return 1
		case a.rank != b.rank && a.keep:
			return a.rank - b.rank
		case a.rank != b.rank:
			return b.rank - a.rank // who leads somewhere goes before where he leads
		}
		return strings.Compare(a.Name, b.Name)
	})
	var b bytes.Buffer
	b.Grow(size + 64)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].Table == list[0].Table && (atOnce == 0 || n < atOnce) {
			n++
		}
		section := list[:n]
		list = list[n:]
		b.WriteString("*" + section[0].Table + "\n")
		for _, c := range section {
			b.WriteString(":")
			b.WriteString(c.Name)
			b.WriteString(" - [0:0]\n")
		}
		for _, c := range section {
			b.WriteString(chains[c.Chain])
		}
		for _, c := range section {
			if !c.keep {
				b.WriteString("-X ")
				b.WriteString(c.Name)
				b.WriteString("\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.Bytes()
}
