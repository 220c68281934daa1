package controllers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
)

// Registry is a set of controllers of which no two write the same fields.
type Registry struct {
	controllers []Controller
}

// NewRegistry checks and joins controllers. A *TwoWritersError says that two of them claim the same fields.
func NewRegistry(cs ...Controller) (*Registry, error) {
	sorted := slices.Clone(cs)
	slices.SortStableFunc(sorted, func(a, b Controller) int { return strings.Compare(a.Name(), b.Name()) })
	for i, c := range sorted {
		if i > 0 && sorted[i-1].Name() == c.Name() {
			return nil, fmt.Errorf("registering controllers: two are named %s", c.Name())
		}
		if len(c.Inputs()) == 0 {
			return nil, fmt.Errorf("registering controllers: %s has no inputs and would never run", c.Name())
		}
		for _, other := range sorted[:i] {
			if err := disjoint(other, c); err != nil {
				return nil, fmt.Errorf("registering controllers: %w", err)
			}
		}
	}
	return &Registry{controllers: sorted}, nil
}

// Controllers returns the controllers ordered by name.
func (r *Registry) Controllers() []Controller { return slices.Clone(r.controllers) }

// TwoWritersError says that two controllers claim to be the one writer of the same fields.
type TwoWritersError struct {
	First, Second string // names of the controllers
	Resource      domain.Resource
	Fields        string // what both claim
}

func (e *TwoWritersError) Error() string {
	return fmt.Sprintf("%s and %s both write %s of %s: one field set has one writer", e.First, e.Second, e.Fields, e.Resource)
}

func disjoint(a, b Controller) error {
	for _, x := range a.Outputs() {
		for _, y := range b.Outputs() {
			if x.Resource != y.Resource || (x.Of != "" && y.Of != "" && x.Of != y.Of) {
				continue
			}
			if x.Creates && y.Creates {
				return &TwoWritersError{First: a.Name(), Second: b.Name(), Resource: x.Resource, Fields: "the creation"}
			}
			for _, f := range x.Fields {
				for _, g := range y.Fields {
					if overlap(f, g) {
						return &TwoWritersError{First: a.Name(), Second: b.Name(), Resource: x.Resource, Fields: longer(f, g)}
					}
				}
			}
		}
	}
	return nil
}

// overlap says whether one path is the other or lies below it.
func overlap(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if !strings.HasPrefix(b, a) {
		return false
	}
	return len(a) == len(b) || b[len(a)] == '.' || b[len(a)] == '['
}

func longer(a, b string) string {
	if len(a) > len(b) {
		return a
	}
	return b
}
