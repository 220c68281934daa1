package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// kernel is a model of what iptables-restore --noflush does to the tables, strict where iptables is: a rule may only lead to a
// chain that exists, and a chain that is removed may be neither filled nor led to.
type kernel struct {
	tables map[string]map[string][]string
}

func newKernel() *kernel {
	return &kernel{tables: map[string]map[string][]string{"filter": {}, "nat": {}}}
}

func (k *kernel) restore(text string) error {
	var name string
	var table map[string][]string
	for n, line := range strings.Split(text, "\n") {
		bad := func(why string) error { return fmt.Errorf("line %d %q: %s", n+1, line, why) }
		words := strings.Fields(line)
		switch {
		case line == "":
		case line[0] == '*':
			if table != nil {
				return bad("the table before was not committed")
			}
			name = line[1:]
			table = map[string][]string{}
			for chain, rules := range k.tables[name] {
				table[chain] = slices.Clone(rules)
			}
		case table == nil:
			return bad("outside of a table")
		case line[0] == ':':
			if len(line) > 1+28+10 || len(words[0]) > 29 {
				return bad("the chain's name is too long")
			}
			table[words[0][1:]] = nil
		case words[0] == "-A":
			rules, ok := table[words[1]]
			if !ok {
				return bad("no such chain")
			}
			if slices.Contains(rules, line) {
				return bad("the rule is there twice")
			}
			table[words[1]] = append(rules, line)
		case words[0] == "-X":
			if len(table[words[1]]) > 0 {
				return bad("the chain is not empty")
			}
			delete(table, words[1])
		case line == "COMMIT":
			for chain, rules := range table {
				for _, rule := range rules {
					_, after, _ := strings.Cut(rule, " -j ")
					if target := strings.Fields(after)[0]; strings.Contains(target, "-") {
						if _, ok := table[target]; !ok {
							return bad(fmt.Sprintf("chain %s leads to %s, which is not there", chain, target))
						}
					}
				}
			}
			k.tables[name], table = table, nil
		default:
			return bad("unknown")
		}
	}
	if table != nil {
		return fmt.Errorf("table %s was not committed", name)
	}
	return nil
}

func (k *kernel) String() string { return format(k.tables) }

// format prints tables in one order, whatever made them.
func format(tables map[string]map[string][]string) string {
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		for _, chain := range slices.Sorted(maps.Keys(tables[table])) {
			fmt.Fprintf(&b, "%s :%s\n", table, chain)
			for _, rule := range tables[table][chain] {
				fmt.Fprintf(&b, "%s %s\n", table, rule)
			}
		}
	}
	return b.String()
}

// reachable lists the chains of the tables that no jump leads to, directly or not.
func (k *kernel) unreachable(roots map[string][]string) []string {
	var lost []string
	for table, chains := range k.tables {
		seen := map[string]bool{}
		queue := slices.Clone(roots[table])
		for len(queue) > 0 {
			chain := queue[0]
			queue = queue[1:]
			if seen[chain] {
				continue
			}
			seen[chain] = true
			for _, rule := range chains[chain] {
				_, after, _ := strings.Cut(rule, " -j ")
				queue = append(queue, strings.Fields(after)[0])
			}
		}
		for chain := range chains {
			if !seen[chain] {
				lost = append(lost, table+" "+chain)
			}
		}
	}
	return lost
}
