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
	return string(restoreText(slices.Collect(maps.Keys(r.chains)), r.chains, 0))
}

// leavesFirst ranks the chains such that a chain comes after every chain that its rules lead to.
func leavesFirst(chain string) int {
	_, rest, _ := strings.Cut(chain, "-")
	family, _, _ := strings.Cut(rest, "-")
	switch "-" + family + "-" {
	case "-MARK-":
		return 0
	case endpointFamily, hostPortFamily:
		return 1
	case clusterFamily, localFamily:
		return 2
	case externalFamily:
		return 3
	case rangesFamily:
		return 4
	case bucketFamily, nodePortFamily:
		return 5
	default:
		return 6
	}
}

// restoreText is the input for iptables-restore --noflush that makes the chains listed say what the map says, and deletes the
// ones that it does not hold. Each table is one transaction unless it changes more chains than atOnce (0: any number); then it is
// several, in an order in which every rule leads to a chain that is there and complete.
func restoreText(changed []chainID, chains map[chainID]string, atOnce int) []byte {
	type ranked struct {
		chainID
		rank int
		keep bool
	}
	list := make([]ranked, len(changed))
	size := 0
	for i, id := range changed {
		_, keep := chains[id]
		list[i] = ranked{id, leavesFirst(id.chain), keep}
		size += len(chains[id]) + 2*len(id.chain) + 16
	}
	slices.SortFunc(list, func(a, b ranked) int {
		if c := strings.Compare(a.table, b.table); c != 0 {
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
		return strings.Compare(a.chain, b.chain)
	})
	var b bytes.Buffer
	b.Grow(size + 64)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].table == list[0].table && (atOnce == 0 || n < atOnce) {
			n++
		}
		section := list[:n]
		list = list[n:]
		b.WriteString("*" + section[0].table + "\n")
		for _, c := range section {
			b.WriteString(":")
			b.WriteString(c.chain)
			b.WriteString(" - [0:0]\n")
		}
		for _, c := range section {
			b.WriteString(chains[c.chainID])
		}
		for _, c := range section {
			if !c.keep {
				b.WriteString("-X ")
				b.WriteString(c.chain)
				b.WriteString("\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.Bytes()
}
