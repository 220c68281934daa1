package persistent

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
)

// LinkType is the type of an event that stands for another: its data is "revision@stream".
const LinkType = "$>"

// target returns where a link leads, false if nobody could follow it.
func target(link *eventstore.Recorded) (stream string, revision uint64, ok bool) {
	number, stream, found := strings.Cut(string(link.Data), "@")
	revision, err := strconv.ParseUint(number, 10, 64)
	return stream, revision, found && err == nil && stream != ""
}

// Resolve returns the event that a link leads to, nil if it is gone, leads nowhere, or is in a stream that may not be read.
func Resolve(ctx context.Context, log eventstore.Log, link *eventstore.Recorded, mayRead func(stream string) bool) (*eventstore.Recorded, error) {
	stream, revision, ok := target(link)
	if !ok || mayRead != nil && !mayRead(stream) {
		return nil, nil
	}
	for e, err := range log.ReadStream(ctx, stream, eventstore.ReadStream{From: revision, Limit: 1}) {
		if gone(err) || err == nil && e.Revision != revision {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("following a link to %s: %w", link.Data, err)
		}
		return &e, nil
	}
	return nil, nil
}

// resolved follows the links among events, for groups that want that. The events that they lead to are returned by the links' place
// in the batch; a link that leads to nothing has nil.
func (g *group) resolved(events []eventstore.Recorded) (map[int]*eventstore.Recorded, error) {
	if !g.ResolveLinks {
		return nil, nil
	}
	var out map[int]*eventstore.Recorded
	for i := range events {
		if events[i].Type != LinkType || g.Stream == All && isOwn(events[i].Stream) {
			continue
		}
		e, err := Resolve(g.ctx, g.log, &events[i], nil)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = make(map[int]*eventstore.Recorded)
		}
		out[i] = e
	}
	return out, nil
}
