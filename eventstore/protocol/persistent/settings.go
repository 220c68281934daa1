// Package persistent runs persistent subscriptions: groups of consumers that share the events of a stream, or of all streams, while
// the server remembers how far the group has come.
//
// What to hand to whom, when to try again, when to park and how far the group has come is decided by core, which knows no clock
// and no log. group carries it out: it reads the log, writes checkpoints and parked events, and wakes consumers. Service keeps the
// definitions of the groups, as an event of the log.
package persistent

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// All is the source of a group that reads all streams.
const All = "$all"

// Kinds of error, tested with errors.Is.
var (
	ErrExists         = errors.New("the group exists")
	ErrNotFound       = errors.New("there is no such group")
	ErrSettings       = errors.New("the group cannot have these settings")
	ErrMaxSubscribers = errors.New("the group has as many subscribers as it may")
	ErrDropped        = errors.New("the subscription was dropped")
	ErrClosed         = errors.New("persistent subscriptions are shut down")
)

// How the events of a group are divided among its consumers.
const (
	// RoundRobin gives each event to the next consumer that has room.
	RoundRobin = "RoundRobin"
	// DispatchToSingle gives events to one consumer until it has no more room, and then to the next.
	DispatchToSingle = "DispatchToSingle"
	// Pinned gives events of one stream to the same consumer, as long as the consumers are the same.
	Pinned = "Pinned"
	// PinnedByCorrelation gives events of one $correlationId to the same consumer.
	PinnedByCorrelation = "PinnedByCorrelation"
)

// Start is where a group begins that has not come anywhere yet.
type Start struct {
	FromEnd bool
	// At is the first revision, or the first position of a group that reads all streams.
	At uint64
}

// Settings of a group. Zero numbers of buffers take their defaults.
type Settings struct {
	Start           Start
	ResolveLinks    bool
	ExtraStatistics bool
	// MessageTimeout is how long a consumer may take over an event before another gets it; 0: as long as it likes.
	MessageTimeout time.Duration
	// MaxRetries is how often an event is handed out again before it is parked.
	MaxRetries int
	// HistoryBuffer is how many events are held ready. LiveBuffer and ReadBatch are kept and told: the log's subscriptions, from
	// which a group reads, need no buffer of their own and have their own batches.
	HistoryBuffer, LiveBuffer, ReadBatch int
	// A checkpoint is written when MaxCheckpoint events are finished since the last, or MinCheckpoint and CheckpointAfter has passed.
	CheckpointAfter              time.Duration
	MinCheckpoint, MaxCheckpoint int
	// MaxSubscribers is how many consumers there may be; 0: any number.
	MaxSubscribers int
	Strategy       string
}

// Defaults, where a client asks for none.
const (
	defaultBuffer    = 500
	defaultReadBatch = 20
)

func (s Settings) withDefaults() Settings {
	for _, size := range []*int{&s.HistoryBuffer, &s.LiveBuffer} {
		if *size == 0 {
			*size = defaultBuffer
		}
	}
	if s.ReadBatch == 0 {
		s.ReadBatch = defaultReadBatch
	}
	if s.Strategy == "" {
		s.Strategy = RoundRobin
	}
	return s
}

func (s Settings) check() error {
	for what, n := range map[string]int{
		"the number of retries": s.MaxRetries, "a buffer's size": min(s.HistoryBuffer, s.LiveBuffer, s.ReadBatch), "a number of events between checkpoints": min(s.MinCheckpoint, s.MaxCheckpoint),
		"the number of subscribers": s.MaxSubscribers, "a time": int(min(s.MessageTimeout, s.CheckpointAfter)),
	} {
		if n < 0 {
			return fmt.Errorf("%w: %s is negative", ErrSettings, what)
		}
	}
	if s.MinCheckpoint > s.MaxCheckpoint {
		return fmt.Errorf("%w: a checkpoint after at least %d and at most %d events", ErrSettings, s.MinCheckpoint, s.MaxCheckpoint)
	}
	if !slices.Contains([]string{RoundRobin, DispatchToSingle, Pinned, PinnedByCorrelation}, s.Strategy) {
		return fmt.Errorf("%w: consumer strategy %s does not exist", ErrSettings, s.Strategy)
	}
	return nil
}

// Filter says which events a group gets that reads all streams: those whose stream's name, or whose type, begins with one of the
// prefixes or meets the regular expression.
type Filter struct {
	ByType   bool     `json:"byType,omitempty"`
	Prefixes []string `json:"prefixes,omitempty"`
	Regex    string   `json:"regex,omitempty"`
}

// Definition of a group.
type Definition struct {
	Stream string // All for all
	Group  string
	Filter *Filter // only with All
	Settings
	// after is the place after which the group begins, where it was found out when the group was made; nil: At says.
	after *uint64
}

// Key names a group, and the streams in which it keeps its state.
func (d *Definition) Key() string { return Key(d.Stream, d.Group) }

// Key names a group of a stream.
func Key(stream, group string) string { return stream + "::" + group }

func (d *Definition) check() error {
	if d.Stream == "" || d.Group == "" {
		return fmt.Errorf("%w: a group has a name, and a stream", ErrSettings)
	}
	if d.Filter != nil {
		if d.Stream != All {
			return fmt.Errorf("%w: only groups that read all streams have a filter", ErrSettings)
		}
		if _, err := regexp.Compile(d.Filter.Regex); err != nil {
			return fmt.Errorf("%w: the filter %q: %w", ErrSettings, d.Filter.Regex, err)
		}
	}
	return d.Settings.check()
}
