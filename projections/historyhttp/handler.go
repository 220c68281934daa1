package historyhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// maxQuery bounds the body of a request, in bytes.
const maxQuery = 1 << 20

type request struct {
	Ref       domain.Ref             `json:"ref,omitzero"`
	Time      time.Time              `json:"time,omitzero"`
	Namespace string                 `json:"namespace,omitempty"`
	Position  uint64                 `json:"position,omitempty"`
	ID        string                 `json:"id,omitempty"`
	Query     projections.EventQuery `json:"query,omitzero"`
}

// NewHandler serves a history under Prefix. Who may ask is for the caller to decide: everything that ever was is behind it.
func NewHandler(h projections.History) http.Handler {
	answer := map[string]func(r *http.Request, q request) (any, error){
		"position": func(r *http.Request, _ request) (any, error) { return h.Position(r.Context()) },
		"positionAt": func(r *http.Request, q request) (any, error) {
			return h.PositionAt(r.Context(), q.Time)
		},
		"object": func(r *http.Request, q request) (any, error) {
			o, err := h.GetAt(r.Context(), q.Ref, q.Position)
			if err != nil {
				return nil, err
			}
			return toWire(o), nil
		},
		"list": func(r *http.Request, q request) (any, error) {
			objects, err := h.ListAt(r.Context(), q.Ref.GroupResource(), q.Namespace, q.Position)
			if err != nil {
				return nil, err
			}
			list := make([]wireObject, len(objects))
			for i, o := range objects {
				list[i] = toWire(o)
			}
			return list, nil
		},
		"events": func(r *http.Request, q request) (any, error) { return h.Events(r.Context(), q.Query) },
		"event":  func(r *http.Request, q request) (any, error) { return h.Event(r.Context(), q.Position, q.ID) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := answer[strings.TrimPrefix(r.URL.Path, Prefix)]
		if !ok {
			fail(w, http.StatusNotFound, problem{Message: fmt.Sprintf("%s is no question that the history answers", r.URL.Path)})
			return
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			fail(w, http.StatusMethodNotAllowed, problem{Message: "send the question as JSON by POST"})
			return
		}
		var q request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuery)).Decode(&q); err != nil {
			fail(w, http.StatusBadRequest, problem{Message: "reading the question: " + err.Error()})
			return
		}
		result, err := f(r, q)
		if err != nil {
			for _, p := range problems {
				if errors.Is(err, p.err) {
					fail(w, p.status, problem{Kind: p.name, Message: err.Error()})
					return
				}
			}
			fail(w, http.StatusInternalServerError, problem{Message: err.Error()})
			return
		}
		data, err := json.Marshal(result)
		if err != nil {
			fail(w, http.StatusInternalServerError, problem{Message: err.Error()})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data) // a reader that went away needs no answer
	})
}

func fail(w http.ResponseWriter, status int, p problem) {
	data, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Message, status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
