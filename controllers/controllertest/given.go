package controllertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// Epoch is the time at which tests begin.
var Epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// Given makes the view of a cluster that consists of some objects, at position 100.
func Given(objects ...runtime.Object) projections.Reader {
	return memory.New(domain.NewSet(domain.Kinds()), 100, objects...)
}

// When reconciles a key of a controller and fails the test when it cannot.
func When(t testing.TB, c controllers.Controller, view projections.Reader, key controllers.Key, now time.Time) controllers.Decision {
	t.Helper()
	d, err := c.Reconcile(view, key, now)
	if err != nil {
		t.Fatalf("reconciling %s: %v", key, err)
	}
	return d
}

// Then fails the test unless the commands of a decision are, in any order, the wanted ones as Line writes them.
func Then(t testing.TB, d controllers.Decision, want ...string) {
	t.Helper()
	got := Lines(d.Commands)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("commands:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Lines writes commands for comparison, sorted.
func Lines(cs []commands.Command) []string {
	out := make([]string, 0, len(cs))
	for _, c := range cs {
		out = append(out, Line(c))
	}
	slices.Sort(out)
	return out
}

// Line is "<verb> <resource>[/<subresource>] <namespace>/<name>".
func Line(c commands.Command) string {
	resource := c.Resource.Resource
	if c.Subresource != "" {
		resource += "/" + c.Subresource
	}
	return strings.TrimRight(fmt.Sprintf("%s %s %s/%s", c.Verb, resource, c.Namespace, c.Name), "/")
}

// Find returns the object of the one command that Line writes so, and fails the test when there is none.
func Find[T runtime.Object](t testing.TB, d controllers.Decision, line string) T {
	t.Helper()
	for _, c := range d.Commands {
		if o, ok := c.Object.(T); ok && Line(c) == line {
			return o
		}
	}
	var zero T
	t.Fatalf("no command %q of a %T among\n  %s", line, zero, strings.Join(Lines(d.Commands), "\n  "))
	return zero
}

// Document writes a decision whole, for golden files.
func Document(d controllers.Decision) (string, error) {
	var b strings.Builder
	sorted := slices.Clone(d.Commands)
	slices.SortStableFunc(sorted, func(x, y commands.Command) int { return strings.Compare(Line(x), Line(y)) })
	for _, c := range sorted {
		fmt.Fprintf(&b, "# %s\n", Line(c))
		switch {
		case c.Object != nil:
			data, err := yaml.Marshal(c.Object)
			if err != nil {
				return "", fmt.Errorf("writing %s: %w", Line(c), err)
			}
			b.Write(data)
		case len(c.Patch) > 0:
			b.Write(c.Patch)
			b.WriteByte('\n')
		}
	}
	for _, e := range d.Events {
		fmt.Fprintf(&b, "# event %s %s: %s\n", e.Type, e.Reason, e.Message)
	}
	if !d.Again.IsZero() {
		fmt.Fprintf(&b, "# again at %s\n", d.Again.UTC().Format(time.RFC3339))
	}
	return b.String(), nil
}
