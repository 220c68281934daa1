package proxy

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// The two tables that the proxy writes, in the order in which it writes them: a refusal has to be there before the way it
// refuses, else a service that loses its last endpoint would for a moment lead nowhere.
const (
	filterTable = "filter"
	natTable    = "nat"
)

var tables = []string{filterTable, natTable}

// chainID names a chain of a table.
type chainID struct{ table, chain string }

// Ruleset is the text of all our chains. Its rules are spelled as iptables-save spells them.
type Ruleset struct {
	chains map[chainID]string // the chain's rules, each a line beginning with -A
}

// Chains lists the names of a table's chains in order.
func (r Ruleset) Chains(table string) []string {
	var names []string
	for id := range r.chains {
		if id.table == table {
			names = append(names, id.chain)
		}
	}
	slices.Sort(names)
	return names
}

// Chain returns the rules of a chain, a line each; empty when there are none.
func (r Ruleset) Chain(table, chain string) string { return r.chains[chainID{table, chain}] }

// Text is the whole input for iptables-restore --noflush: it makes our chains say exactly this.
func (r Ruleset) Text() string {
	return string(restoreText(slices.Collect(maps.Keys(r.chains)), r.chains))
}

// restoreText is the input for iptables-restore --noflush that makes the chains listed say what the map says, and deletes the
// ones that it does not hold.
func restoreText(changed []chainID, chains map[chainID]string) []byte {
	slices.SortFunc(changed, func(a, b chainID) int {
		if a.table != b.table {
			return strings.Compare(a.table, b.table) // filter comes before nat
		}
		return strings.Compare(a.chain, b.chain)
	})
	size := 0
	for _, id := range changed {
		size += len(chains[id]) + 2*len(id.chain) + 16
	}
	var b bytes.Buffer
	b.Grow(size + 64)
	for _, table := range tables {
		first := true
		for _, id := range changed {
			if id.table != table {
				continue
			}
			if first {
				b.WriteString("*" + table + "\n")
				first = false
			}
			b.WriteString(":")
			b.WriteString(id.chain)
			b.WriteString(" - [0:0]\n")
		}
		if first {
			continue
		}
		for _, id := range changed {
			if id.table == table {
				b.WriteString(chains[id])
			}
		}
		for _, id := range changed {
			if _, kept := chains[id]; !kept && id.table == table {
				b.WriteString("-X ")
				b.WriteString(id.chain)
				b.WriteString("\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.Bytes()
}
