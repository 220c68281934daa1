package controllers_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// declared is a controller that only declares.
type declared struct {
	name    string
	inputs  []controllers.Input
	outputs []controllers.Output
}

func (d declared) Name() string                  { return d.name }
func (d declared) Inputs() []controllers.Input   { return d.inputs }
func (d declared) Outputs() []controllers.Output { return d.outputs }
func (declared) Reconcile(projections.Reader, controllers.Key, time.Time) (controllers.Decision, error) {
	return controllers.Decision{}, nil
}

var podsGR = domain.Resource{Resource: "pods"}

func writer(name string, out ...controllers.Output) declared {
	return declared{name: name, inputs: []controllers.Input{{Resource: podsGR, Why: "to look"}}, outputs: out}
}

func TestOneFieldSetHasOneWriter(t *testing.T) {
	of := func(words string, fields ...string) controllers.Output {
		return controllers.Output{Resource: podsGR, Of: words, Fields: fields}
	}
	for _, c := range []struct {
		what string
		a, b controllers.Output
		both string // "" when they may live together
	}{
		{"the same field", of("", "status"), of("", "status"), "status"},
		{"a field below the other", of("", "status"), of("", "status.conditions[Ready]"), "status.conditions[Ready]"},
		{"a field with a name that begins alike", of("", "status"), of("", "statusQuo"), ""},
		{"fields side by side", of("", "status.phase"), of("", "status.conditions"), ""},
		{"disjoint objects", of("owned by a", "status"), of("owned by b", "status"), ""},
		{"all objects and some", of("", "status"), of("owned by b", "status"), "status"},
		{"another resource", of("", "status"), controllers.Output{Resource: domain.Resource{Resource: "nodes"}, Fields: []string{"status"}}, ""},
		{"creation", controllers.Output{Resource: podsGR, Creates: true}, controllers.Output{Resource: podsGR, Creates: true}, "the creation"},
		{"deletion is not exclusive", controllers.Output{Resource: podsGR, Deletes: true}, controllers.Output{Resource: podsGR, Deletes: true}, ""},
	} {
		_, err := controllers.NewRegistry(writer("b", c.b), writer("a", c.a))
		var two *controllers.TwoWritersError
		switch {
		case c.both == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.both != "" && !errors.As(err, &two):
			t.Errorf("%s: no error", c.what)
		case c.both != "" && (two.Fields != c.both || two.First != "a" || two.Second != "b"):
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if _, err := controllers.NewRegistry(writer("a"), writer("a")); err == nil {
		t.Error("two of one name: no error")
	}
	if _, err := controllers.NewRegistry(declared{name: "deaf"}); err == nil {
		t.Error("no inputs: no error")
	}
}

func TestTheGraphIsShownInThreeWays(t *testing.T) {
	r, err := controllers.NewRegistry(writer("keeper", controllers.Output{Resource: podsGR, Of: "of sets", Creates: true, Fields: []string{"status"}}))
	if err != nil {
		t.Fatal(err)
	}
	g := r.Graph()
	if want := "keeper\n  reads  pods (to look)\n  writes pods (of sets): create, status\n"; g.Text() != want {
		t.Errorf("text:\n%s\nwant:\n%s", g.Text(), want)
	}
	for _, want := range []string{`"pods" -> "keeper" [label="to look"]`, `"keeper" -> "pods" [label="create, status\nof sets", style=bold]`} {
		if !strings.Contains(g.DOT(), want) {
			t.Errorf("no %s in\n%s", want, g.DOT())
		}
	}
	data, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back controllers.Graph
	if err := json.Unmarshal(data, &back); err != nil || back.Text() != g.Text() {
		t.Errorf("json: %v\n%s", err, data)
	}
}
