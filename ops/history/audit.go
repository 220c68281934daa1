package history

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Entry is one line of the audit: something that somebody asked for, and what came of it. A request that changed several objects has an
// entry for each.
type Entry struct {
	Position    uint64        `json:"position"`
	Time        time.Time     `json:"time"`
	Actor       domain.Actor  `json:"actor"`
	Verb        string        `json:"verb"`
	Subresource string        `json:"subresource,omitempty"`
	Object      domain.Ref    `json:"object"`
	Type        string        `json:"type"`         // of the event
	Op          domain.Op     `json:"op,omitempty"` // "": it changed nothing
	Code        int           `json:"code"`         // of the answer, as in HTTP
	Reason      string        `json:"reason,omitempty"`
	Message     string        `json:"message,omitempty"`
	URI         string        `json:"uri,omitempty"` // of a request that changed nothing
	RequestID   string        `json:"requestID,omitempty"`
	Correlation string        `json:"correlation,omitempty"`
	Cause       *domain.Cause `json:"cause,omitempty"` // why a component asked
	ID          string        `json:"id"`
}

// AuditQuery selects entries; the zero value of a field selects all.
type AuditQuery struct {
	Object    *domain.Ref
	Namespace string
	User      string
	Verbs     []string
	Refused   bool      // only what was refused or failed
	People    bool      // not what the cluster's own components asked for
	After     uint64    // position, exclusive
	Through   uint64    // position, inclusive; 0: no bound
	Since     time.Time // inclusive
	Until     time.Time // exclusive
	Last      int       // only so many of the last; 0: all
}

// ownComponent says whether a user is a part of the cluster itself. Service accounts of the namespace kube-system are: controllers have
// those. Other service accounts, and who is anonymous, are not, unlike for component.
func ownComponent(user string) bool {
	account, isAccount := strings.CutPrefix(user, "system:serviceaccount:")
	switch {
	case isAccount:
		return strings.HasPrefix(account, "kube-system:")
	case user == "system:anonymous" || user == "system:admin":
		return false
	}
	return strings.HasPrefix(user, "system:")
}

// Audit calls each for the entries that a query selects, oldest first, and stops at its first error.
func Audit(ctx context.Context, h projections.History, q AuditQuery, each func(Entry) error) error {
	eq := projections.EventQuery{
		AnyGroup: true, Namespace: q.Namespace, Actor: q.User, After: q.After, Through: q.Through, Since: q.Since, Until: q.Until, Limit: page, Newest: q.Last > 0,
	}
	if q.Object != nil {
		eq.AnyGroup, eq.Group, eq.Resource, eq.Namespace, eq.Name = false, q.Object.Group, q.Object.Resource, q.Object.Namespace, q.Object.Name
	}
	if q.Refused {
		eq.Types = []string{domain.RequestRefused, domain.RequestFailed}
	}
	var last []Entry // newest first
	for {
		events, err := h.Events(ctx, eq)
		if err != nil {
			return fmt.Errorf("reading the audit: %w", err)
		}
		for i := range events {
			e := &events[i]
			if q.People && e.Actor.Impersonator == "" && ownComponent(e.Actor.User) || len(q.Verbs) > 0 && !slices.Contains(q.Verbs, e.Command.Verb) {
				continue
			}
			if q.Last == 0 {
				if err := each(entryOf(e)); err != nil {
					return err
				}
			} else if last = append(last, entryOf(e)); len(last) == q.Last {
				break
			}
		}
		if len(events) < page || q.Last > 0 && len(last) == q.Last {
			break
		}
		if end := events[len(events)-1].Position; eq.Newest {
			eq.Through = end - 1
		} else {
			eq.After = end
		}
	}
	for _, e := range slices.Backward(last) {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func entryOf(e *domain.Event) Entry {
	entry := Entry{
		Position: e.Position, Time: e.Time, Actor: e.Actor, Verb: e.Command.Verb, Subresource: e.Command.Subresource, Object: e.Ref, Type: e.Type, Op: e.Op,
		Code: http.StatusOK, RequestID: e.Command.RequestID, Correlation: e.Correlation, Cause: e.Cause, ID: e.ID,
	}
	switch {
	case e.Op == domain.Created:
		entry.Code = http.StatusCreated
	case e.Op == "":
		// What the API's trail says of the answer; other facts say nothing of one.
		var answer struct {
			URI, Reason, Message string
			Code                 int
		}
		if json.Unmarshal(e.Evidence, &answer) == nil && answer.Code != 0 {
			entry.Code, entry.Reason, entry.Message, entry.URI = answer.Code, answer.Reason, answer.Message, answer.URI
		} else if e.Type == domain.RequestRefused || e.Type == domain.RequestFailed {
			entry.Code = 0 // it is not known
		}
		if entry.Object.Name == "-" {
			entry.Object.Name = "" // of a collection
		}
	}
	return entry
}

// result is the last column of a row.
func (e *Entry) result() string {
	switch {
	case e.Op == "" && e.Code >= http.StatusBadRequest:
		return strings.TrimSpace(fmt.Sprintf("%d %s: %s", e.Code, e.Reason, e.Message))
	case e.Op == "" && (e.Type == domain.RequestRefused || e.Type == domain.RequestFailed):
		return e.Type
	}
	return fmt.Sprintf("%d %s", e.Code, e.Type)
}
