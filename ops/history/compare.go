package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Difference is what is different about one object between two moments.
type Difference struct {
	Object domain.Ref `json:"object"`
	// Change is added, removed, replaced (another object of the same name) or changed.
	Change string  `json:"change"`
	Fields []Field `json:"fields,omitempty"`
}

// Scope says what to compare.
type Scope struct {
	Object    *domain.Ref // one object; nil: all of the namespace
	Namespace string      // "": all namespaces and what is in none
	// Everything includes what changes all the time and says little: leases and events.
	Everything bool
}

// Compare returns what is different between two positions, ordered by resource, namespace and name.
func Compare(ctx context.Context, h projections.History, kinds *domain.Set, from, to uint64, s Scope) ([]Difference, error) {
	if s.Object != nil {
		before, err := getAt(ctx, h, *s.Object, from)
		if err != nil {
			return nil, err
		}
		after, err := getAt(ctx, h, *s.Object, to)
		if err != nil {
			return nil, err
		}
		if before == nil && after == nil {
			return nil, fmt.Errorf("%s was there at neither moment: %w", *s.Object, projections.ErrNotFound)
		}
		return differences(nil, before, after)
	}
	var list []Difference
	for _, k := range kinds.All() {
		if s.Namespace != "" && !k.Namespaced || !s.Everything && k.Retained() {
			continue
		}
		before, err := h.ListAt(ctx, k.GroupResource(), s.Namespace, from)
		if err != nil {
			return nil, fmt.Errorf("listing %s at position %d: %w", k.GroupResource(), from, err)
		}
		after, err := h.ListAt(ctx, k.GroupResource(), s.Namespace, to)
		if err != nil {
			return nil, fmt.Errorf("listing %s at position %d: %w", k.GroupResource(), to, err)
		}
		if list, err = compareLists(list, before, after); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b Difference) int { return strings.Compare(a.Object.String(), b.Object.String()) })
	return list, nil
}

func getAt(ctx context.Context, h projections.History, ref domain.Ref, position uint64) (*projections.Object, error) {
	if position == 0 {
		return nil, nil // before the first event there is nothing
	}
	o, err := h.GetAt(ctx, ref, position)
	if errors.Is(err, projections.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at position %d: %w", ref, position, err)
	}
	return o, nil
}

func compareLists(list []Difference, before, after []*projections.Object) ([]Difference, error) {
	old := make(map[string]*projections.Object, len(before))
	for _, o := range before {
		old[o.Ref.Namespace+"/"+o.Ref.Name] = o
	}
	var err error
	for _, o := range after {
		key := o.Ref.Namespace + "/" + o.Ref.Name
		if list, err = differences(list, old[key], o); err != nil {
			return nil, err
		}
		delete(old, key)
	}
	for _, o := range before {
		if old[o.Ref.Namespace+"/"+o.Ref.Name] != nil {
			if list, err = differences(list, o, nil); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func differences(list []Difference, before, after *projections.Object) ([]Difference, error) {
	switch {
	case before == nil:
		return append(list, Difference{Object: after.Ref, Change: "added"}), nil
	case after == nil:
		return append(list, Difference{Object: before.Ref, Change: "removed"}), nil
	case before.Position == after.Position:
		return list, nil
	}
	fields, err := compare(before, after)
	if err != nil {
		return nil, fmt.Errorf("comparing %s: %w", after.Ref, err)
	}
	if len(fields) == 0 {
		return list, nil
	}
	d := Difference{Object: after.Ref, Change: "changed", Fields: fields}
	if before.Ref.UID != after.Ref.UID {
		d.Change = "replaced"
	}
	return append(list, d), nil
}
