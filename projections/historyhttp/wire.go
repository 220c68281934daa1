// Package historyhttp carries projections.History over HTTP, so that the commands that look back ask a running cluster the
// same questions in the same words as they ask a log in a directory. Handler serves it, Client asks it.
package historyhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Prefix is the path under which a cluster serves its history.
const Prefix = "/shiplog/v1/history/"

// wireObject is an object as it travels: its JSON is canonical and without a resourceVersion, as in the log, but for what is sealed
// there: that is open, or marked as erased.
type wireObject struct {
	Ref      domain.Ref      `json:"ref"`
	Position uint64          `json:"position"`
	Revision uint64          `json:"revision"`
	Object   json.RawMessage `json:"object"`
}

func toWire(o *projections.Object) wireObject {
	document, err := o.Document()
	if err != nil {
		document = o.JSON // it cannot be read; the other side says so
	}
	return wireObject{Ref: o.Ref, Position: o.Position, Revision: o.Revision, Object: document}
}

func fromWire(kinds *domain.Set, w wireObject) (*projections.Object, error) {
	kind, ok := kinds.ByResource(w.Ref.GroupResource())
	if !ok {
		return nil, errors.New("the cluster answered with an object of the unknown resource " + w.Ref.GroupResource().String() + ": use a shiplog of the cluster's version")
	}
	// Positions tell objects apart, so the canonical form that travelled is the form that is kept.
	data, err := domain.Canonical(w.Object)
	if err != nil {
		return nil, err
	}
	o := projections.Object{Kind: kind, Ref: w.Ref, Position: w.Position, Revision: w.Revision, JSON: data}
	return projections.NewObject(o, sync.OnceValues(func() (runtime.Object, error) {
		return domain.Decode(kind, data, w.Position)
	})), nil
}

// problem is how an error travels: the kind by name, so that errors.Is holds on the other side.
type problem struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

var problems = []struct {
	name   string
	err    error
	status int
}{
	{"NotFound", projections.ErrNotFound, http.StatusNotFound},
	{"Unavailable", projections.ErrUnavailable, http.StatusServiceUnavailable},
	{"TooOld", projections.ErrTooOld, http.StatusGone},
	{"Future", projections.ErrFuture, http.StatusBadRequest},
}
