package domain

import (
	"bytes"
	"slices"
)

// sameEnds counts the elements that two lists have in common at their beginning and at their end.
func sameEnds(b, a [][]byte) (prefix, suffix int) {
	for prefix < len(b) && prefix < len(a) && bytes.Equal(b[prefix], a[prefix]) {
		prefix++
	}
	for suffix < len(b)-prefix && suffix < len(a)-prefix && bytes.Equal(b[len(b)-1-suffix], a[len(a)-1-suffix]) {
		suffix++
	}
	return prefix, suffix
}

// pair is an element before and after; nil where it is not.
type pair struct{ before, after []byte }

// align pairs the elements of two lists: first those that are recognised by their identity and stand in the same order in
// both, then, between them, one by one.
func align(b, a [][]byte) []pair {
	out := make([]pair, 0, max(len(b), len(a)))
	run := func(b, a [][]byte) {
		n := min(len(b), len(a))
		for i := range n {
			out = append(out, pair{b[i], a[i]})
		}
		for _, e := range b[n:] {
			out = append(out, pair{before: e})
		}
		for _, e := range a[n:] {
			out = append(out, pair{after: e})
		}
	}
	if len(b) == 0 || len(a) == 0 || len(b) == 1 && len(a) == 1 {
		run(b, a)
		return out
	}
	where := make(map[string]int, len(b)) // identity -> index in b, -1 when several have it
	for i, e := range b {
		id := identity(e)
		if _, dup := where[id]; dup {
			i = -1
		}
		where[id] = i
	}
	partner := make([]int, len(a))
	taken := make(map[int]int, len(a))
	for i, e := range a {
		j, ok := where[identity(e)]
		if !ok || j < 0 {
			partner[i] = -1
			continue
		}
		if first, dup := taken[j]; dup { // several in a: none is recognised
			partner[first], partner[i] = -1, -1
			continue
		}
		taken[j], partner[i] = i, j
	}
	nextB, nextA := 0, 0
	for _, i := range longestRise(partner) {
		j := partner[i]
		run(b[nextB:j], a[nextA:i])
		out = append(out, pair{b[j], a[i]})
		nextB, nextA = j+1, i+1
	}
	run(b[nextB:], a[nextA:])
	return out
}

// longestRise returns the indexes of a longest increasing subsequence of the values that are not negative.
func longestRise(values []int) []int {
	var ends []int // ends[n]: index of the smallest value that ends a rise of n+1
	previous := make([]int, len(values))
	for i, v := range values {
		if v < 0 {
			continue
		}
		n, _ := slices.BinarySearchFunc(ends, v, func(end, v int) int { return values[end] - v })
		previous[i] = -1
		if n > 0 {
			previous[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	out := make([]int, len(ends))
	if len(ends) == 0 {
		return out
	}
	for n, i := len(ends)-1, ends[len(ends)-1]; n >= 0; n, i = n-1, previous[i] {
		out[n] = i
	}
	return out
}

// identifying are the members by which people, and Kubernetes' own merge keys, tell the elements of lists apart.
var identifying = [...]string{"containerPort", "ip", "key", "manager", "mountPath", "name", "operation", "subresource", "type", "uid"}

// identity is what tells an element from its neighbours: the identifying members of an object, or all of it.
func identity(element []byte) string {
	if element[0] != '{' {
		return string(element)
	}
	var id []byte
	s := scanObject(element)
	for {
		k, v, ok := s.next()
		if !ok {
			break
		}
		if isIdentifying(k) && v[0] != '{' && v[0] != '[' {
			id = append(append(append(append(id, k...), '='), v...), ',')
		}
	}
	if id == nil {
		return string(element)
	}
	return string(id)
}

func isIdentifying(key []byte) bool {
	for _, name := range identifying {
		if string(key) == name {
			return true
		}
	}
	return false
}
