package protocol

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
)

// allStream is what the stream of all streams is called where access to it is meant.
const allStream = "$all"

// settingsStream holds the default access lists, in its last event.
const settingsStream = "$settings"

// right is something that an access list gives or not.
type right string

// Rights, as they are called in a stream's metadata.
const (
	mayRead      right = "$r"
	mayWrite     right = "$w"
	mayDelete    right = "$d"
	mayReadMeta  right = "$mr"
	mayWriteMeta right = "$mw"
)

// Names that stand for a default access list where a stream's own would.
const (
	userStreams   = "$userStreamAcl"
	systemStreams = "$systemStreamAcl"
)

// gate says who may do what.
type gate struct {
	log      eventstore.Log
	users    func() *users.Set // nil: everything is open
	known    bool              // only those who say who they are are let in
	writable func(stream string) bool
}

// userKey finds the user of a call in its context.
type userKey struct{}

// userOf returns who makes a call. Where there are no users it is anybody.
func userOf(ctx context.Context) users.User {
	u, _ := ctx.Value(userKey{}).(users.User)
	return u
}

// identify finds out who makes a call: by name and password, or by a certificate whose common name is a user's. Somebody who
// says nothing is anybody; somebody who says something wrong is refused.
func (g *gate) identify(ctx context.Context) (context.Context, error) {
	if g.users == nil {
		return ctx, nil
	}
	set := g.users()
	md, _ := metadata.FromIncomingContext(ctx)
	if given := md.Get("authorization"); len(given) > 0 {
		name, password, ok := basicAuth(given[0])
		if ok {
			var u users.User
			if u, ok = set.Verify(name, password); ok {
				return context.WithValue(ctx, userKey{}, u), nil
			}
		}
		return nil, status.Error(codes.Unauthenticated, "Not Authenticated: wrong name or password")
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
			if u, ok := set.Find(info.State.VerifiedChains[0][0].Subject.CommonName); ok {
				return context.WithValue(ctx, userKey{}, u), nil
			}
		}
	}
	if g.known {
		return nil, status.Error(codes.Unauthenticated, "Not Authenticated: say who you are")
	}
	return ctx, nil
}

func basicAuth(header string) (name, password string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(plain), ":")
}

// operator lets those pass who run the event store.
func (g *gate) operator(ctx context.Context) error {
	if u := userOf(ctx); g.users == nil || u.Is(users.Admins) || u.Is(users.Operations) {
		return nil
	}
	return accessDenied()
}

// somebody lets everybody pass who has a name.
func (g *gate) somebody(ctx context.Context) error {
	if g.users == nil || !userOf(ctx).Anonymous() {
		return nil
	}
	return accessDenied()
}

// stream lets those pass who have a right to a stream. A metadata stream belongs to the stream that it is about; nobody may
// delete one, or write to the stream of all streams.
func (g *gate) stream(ctx context.Context, r right, stream string) error {
	if stream == allStream && r != mayRead {
		return accessDenied()
	}
	if base, ok := eventstore.MetadataOf(stream); ok {
		switch stream = base; r {
		case mayRead:
			r = mayReadMeta
		case mayWrite:
			r = mayWriteMeta
		default:
			return accessDenied()
		}
	}
	if r != mayRead && r != mayReadMeta && g.writable != nil && !g.writable(stream) {
		return accessDenied()
	}
	u := userOf(ctx)
	if g.users == nil || u.Is(users.Admins) {
		return nil
	}
	roles, err := g.roles(ctx, r, stream)
	if err != nil {
		return err
	}
	for _, role := range roles {
		if u.Is(role) {
			return nil
		}
	}
	return accessDenied()
}

// roles returns who has a right to a stream: by its own access list, by the default ones of the settings, or by those that
// EventStoreDB begins with, where streams are everybody's and system streams the administrators'.
func (g *gate) roles(ctx context.Context, r right, stream string) ([]string, error) {
	var own struct {
		ACL acl `json:"$acl"`
	}
	if stream != allStream {
		if err := g.lastOf(ctx, eventstore.MetadataStream(stream), &own); err != nil {
			return nil, err
		}
	}
	if own.ACL.broken {
		return nil, nil // the administrators'
	}
	if roles, ok := own.ACL.roles[r]; ok {
		return roles, nil
	}
	kind, roles := userStreams, []string{users.Everybody}
	if strings.HasPrefix(stream, "$") {
		kind = systemStreams
	}
	if own.ACL.like != "" {
		kind = own.ACL.like
	}
	if kind == systemStreams {
		roles = []string{users.Admins}
	}
	var defaults map[string]acl
	if err := g.lastOf(ctx, settingsStream, &defaults); err != nil {
		return nil, err
	}
	if set, ok := defaults[kind].roles[r]; ok {
		roles = set
	}
	if defaults[kind].broken {
		return nil, nil
	}
	return roles, nil
}

// lastOf reads the last event of a stream. One that there is not, or that does not parse, says nothing.
func (g *gate) lastOf(ctx context.Context, stream string, into any) error {
	last := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}
	for e, err := range g.log.ReadStream(ctx, stream, last) {
		if errors.Is(err, eventstore.ErrStreamNotFound) || errors.Is(err, eventstore.ErrStreamDeleted) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("finding out who may: %w", err)
		}
		if err := json.Unmarshal(e.Data, into); err != nil {
			// What nobody can read gives no rights away: EventStoreDB too falls back on its defaults.
			return nil //nolint:nilerr // see above
		}
	}
	return nil
}

// acl is an access list: roles by right, or the name of a default one. Either a role or a list of them can stand with a right.
type acl struct {
	roles map[right][]string
	like  string
	// broken says that there is one which cannot be read. It was not meant to give everybody everything, so it gives nothing.
	broken bool
}

func (a *acl) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	if json.Unmarshal(data, &a.like) == nil {
		a.broken = a.like != userStreams && a.like != systemStreams
		return nil
	}
	var rights map[right]json.RawMessage
	if json.Unmarshal(data, &rights) != nil {
		a.broken = true
		return nil
	}
	a.roles = make(map[right][]string, len(rights))
	for r, value := range rights {
		var one string
		if json.Unmarshal(value, &one) == nil {
			a.roles[r] = []string{one}
			continue
		}
		var several []string
		if json.Unmarshal(value, &several) != nil {
			a.broken = true
			return nil
		}
		a.roles[r] = several
	}
	return nil
}
