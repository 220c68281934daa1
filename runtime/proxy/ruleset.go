package proxy

import (
	"maps"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// The two tables that the proxy writes, in the order in which it writes them: a refusal has to be there before the way it
// refuses, else a service that loses its last endpoint would for a moment lead nowhere.
const (
	filterTable = "filter"
	natTable    = "nat"
)

var tables = []string{filterTable, natTable}

// chainID names a chain of a table.
type chainID = xtables.Chain

// Ruleset is the text of all our chains. Its rules are spelled as iptables-save spells them.
type Ruleset struct {
	chains map[chainID]string // the chain's rules, each a line beginning with -A
}

// Chains lists the names of a table's chains in order.
func (r Ruleset) Chains(table string) []string {
	var names []string
	for id := range r.chains {
		if id.Table == table {
			names = append(names, id.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Chain returns the rules of a chain, a line each; empty when there are none.
func (r Ruleset) Chain(table, chain string) string {
	return r.chains[chainID{Table: table, Name: chain}]
}

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

func restoreText(changed []chainID, chains map[chainID]string, atOnce int) []byte {
	return xtables.RestoreText(changed, chains, leavesFirst, atOnce)
}
