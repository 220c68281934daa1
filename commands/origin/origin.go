// Package origin carries who asks for a change, and why, from the door through which the request came in (HTTP or the bus) to
// the event that it ends in. It travels in the request's context.
package origin

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/shiplog/shiplog/domain"
)

// Origin is what an event keeps of the request that led to it.
type Origin struct {
	Actor   domain.Actor
	Command domain.CommandInfo
	// Correlation joins all that follows from one request; empty continues the cause's, or starts a new one.
	Correlation string
	Cause       *domain.Cause
	Evidence    json.RawMessage
}

type key struct{}

// With returns a context that carries an origin. Fields left empty are filled from the API request (see From).
func With(ctx context.Context, o Origin) context.Context { return context.WithValue(ctx, key{}, o) }

// From returns the origin of a request: what With put into the context, completed from the authenticated user, the request's
// verb and subresource and its audit id, as the API's handlers put them there.
func From(ctx context.Context) Origin {
	o, _ := ctx.Value(key{}).(Origin)
	if o.Actor.User == "" {
		if u, ok := request.UserFrom(ctx); ok {
			o.Actor.User, o.Actor.UID, o.Actor.Groups = u.GetName(), u.GetUID(), u.GetGroups()
			o.Actor.Impersonator = impersonator(ctx)
		}
	}
	if info, ok := request.RequestInfoFrom(ctx); ok {
		if o.Command.Verb == "" {
			o.Command.Verb = info.Verb
		}
		if o.Command.Subresource == "" {
			o.Command.Subresource = info.Subresource
		}
	}
	if o.Command.RequestID == "" {
		if id, ok := audit.AuditIDFrom(ctx); ok {
			o.Command.RequestID = string(id)
		}
	}
	return o
}

// impersonator is who asks in the name of a request's user, "" when nobody does. The audit of the request knows: the API server
// puts the other name in the place of the authenticated user's everywhere else.
func impersonator(ctx context.Context) string {
	event := audit.AuditContextFrom(ctx)
	if event == nil || event.GetEventImpersonatedUser() == nil {
		return ""
	}
	return event.GetEventUser().Username
}

// Detached returns a context that carries nothing but the origin of a request: for what a request starts that must outlive it.
func Detached(ctx context.Context) context.Context { return With(context.Background(), From(ctx)) }

// NewRequestID returns the id of a request that did not come by HTTP.
func NewRequestID() types.UID { return types.UID(uuid.NewString()) }
