package domain

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestMandatoryEvents(t *testing.T) {
	pod := Ref{Resource: "pods", Namespace: "default", Name: "web-1"}
	widget := Ref{Group: "example.com", Resource: "widgets", Name: "w"}
	for name, c := range map[string]struct {
		event Event
		known bool
	}{
		"a word of its kind":                {Event{Type: "PodBound", Ref: pod, Op: Changed}, true},
		"a word that every kind has":        {Event{Type: "PodLabelsChanged", Ref: pod, Op: Changed}, true},
		"a fact":                            {Event{Type: RequestRefused, Ref: pod}, true},
		"a word that nobody knows":          {Event{Type: "PodTeleported", Ref: pod, Op: Changed}, false},
		"a fact that nobody knows":          {Event{Type: "KeysDestroyed", Ref: pod}, false},
		"a word of another kind":            {Event{Type: "NodeNotReady", Ref: pod, Op: Changed}, false},
		"an operation that nobody knows":    {Event{Type: "PodChanged", Ref: pod, Op: "moved"}, false},
		"a custom resource's generic word":  {Event{Type: "WidgetCreated", Ref: widget, Op: Created}, true},
		"a custom resource's word":          {Event{Type: "WidgetPainted", Ref: widget, Op: Changed}, false},
		"a custom resource's empty generic": {Event{Type: "Created", Ref: widget, Op: Created}, false},
	} {
		for _, mandatory := range []bool{true, false} {
			c.event.ID, c.event.Mandatory, c.event.Change = "e-1", mandatory, []byte(`{}`)
			data, metadata, err := MarshalEvent(c.event)
			if err != nil {
				t.Fatal(err)
			}
			got, err := UnmarshalEvent(c.event.Type, c.event.ID, data, metadata, 17, 3, time.Time{})
			if c.known || !mandatory {
				if err != nil || got.Mandatory != mandatory || got.Type != c.event.Type {
					t.Errorf("%s, mandatory %v: read as %+v, %v", name, mandatory, got, err)
				}
				continue
			}
			var refused *MandatoryEventError
			if !errors.As(err, &refused) || !errors.Is(err, ErrNewer) || refused.Position != 17 || refused.Revision != 3 || refused.Type != c.event.Type {
				t.Errorf("%s, mandatory: read as %+v, %v", name, got, err)
				continue
			}
			for _, said := range []string{"e-1", c.event.Type, "position 17", c.event.Ref.Stream(), "newer"} {
				if !strings.Contains(err.Error(), said) {
					t.Errorf("%s: %q does not say %q", name, err, said)
				}
			}
		}
	}
}

// An event of a shape that this build cannot read either is refused for being mandatory, not taken for damaged.
func TestMandatoryEventsOfAnotherShape(t *testing.T) {
	_, err := UnmarshalEvent("PodTeleported", "e-1", []byte(`{"from":["n1"],"ref":7}`), []byte(`{"actor":[],"version":1,"mandatory":true}`), 9, 0, time.Time{})
	if !errors.Is(err, ErrNewer) || errors.Is(err, ErrBadEvent) {
		t.Errorf("got %v", err)
	}
	if _, err = UnmarshalEvent("PodTeleported", "e-1", []byte(`{"from":["n1"],"ref":7}`), []byte(`{"actor":[],"version":1}`), 9, 0, time.Time{}); !errors.Is(err, ErrBadEvent) {
		t.Errorf("not mandatory: got %v", err)
	}
	if !errors.Is(&UnknownVersionError{}, ErrNewer) {
		t.Error("a newer schema version is not of a newer build")
	}
}
