package seal

import (
	"slices"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
)

// follower keeps a chain over the events of a log that keeps none itself.
type follower struct {
	leavesOut []string // what the names of the streams begin with that are left out; sorted
	digest    eventstore.Digest
}

// newFollower leaves out the system's streams besides those named: servers shorten them as they like.
func newFollower(leavesOut []string) *follower {
	all := append([]string{"$"}, leavesOut...)
	slices.Sort(all)
	return &follower{leavesOut: slices.Compact(all)}
}

func (f *follower) leaves(stream string) bool {
	return slices.ContainsFunc(f.leavesOut, func(prefix string) bool { return strings.HasPrefix(stream, prefix) })
}

// add continues the chain with an event.
func (f *follower) add(e *eventstore.Recorded) {
	if !f.leaves(e.Stream) {
		f.digest = eventstore.Link(f.digest, &eventstore.Entry{Recorded: *e, Content: e.ContentDigest()})
	}
}
