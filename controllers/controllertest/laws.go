package controllertest

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/domain"
)

// sameDecision compares what can be compared of two decisions: all but what follows from the outcomes.
func sameDecision(a, b controllers.Decision) bool {
	return a.Careful == b.Careful && a.Again.Equal(b.Again) && a.Settle == b.Settle && (a.Then == nil) == (b.Then == nil) &&
		equality.Semantic.DeepEqual(a.Commands, b.Commands) && equality.Semantic.DeepEqual(a.Events, b.Events)
}

// untouched fails when a controller has changed an object of the view, which all share.
func (s *Simulation) untouched() error {
	view := s.Cluster.Snapshot()
	for _, gr := range controllers.Resources(view) {
		for o := range view.List(gr, "") {
			typed, err := o.Typed()
			if err != nil {
				return fmt.Errorf("reading %s: %w", o.Ref, err)
			}
			data, err := domain.Encode(o.Kind, typed)
			if err != nil {
				return fmt.Errorf("encoding %s: %w", o.Ref, err)
			}
			if string(data) != string(o.JSON) {
				return fmt.Errorf("somebody has changed %s, which the view shares:\n%s\nis kept as\n%s", o.Ref, data, o.JSON)
			}
		}
	}
	return nil
}
