package protocol

import (
	"regexp"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"

	"github.com/shiplog/shiplog/eventstore"
)

// filter is a filter of a read of all streams. A nil filter admits everything.
type filter struct {
	prefixes []string
	regex    *regexp.Regexp
	byType   bool
	// interval is how many events are considered between two checkpoints.
	interval uint64
}

func parseFilter(options *streams.ReadReq_Options_FilterOptions) (*filter, error) {
	if options == nil {
		return nil, nil
	}
	f := &filter{byType: options.GetEventType() != nil}
	expression := options.GetStreamIdentifier()
	if f.byType {
		expression = options.GetEventType()
	}
	f.prefixes = expression.GetPrefix()
	if pattern := expression.GetRegex(); pattern != "" && len(f.prefixes) == 0 {
		regex, err := regexp.Compile(pattern)
		if err != nil {
			return nil, invalid("the filter %q: %v", pattern, err)
		}
		f.regex = regex
	}
	window := uint64(options.GetMax())
	if window == 0 {
		window = 32
	}
	f.interval = window * max(1, uint64(options.GetCheckpointIntervalMultiplier()))
	return f, nil
}

// forLog is as much of the filter as the log can apply.
func (f *filter) forLog() eventstore.Filter {
	out := eventstore.Filter{System: true}
	switch {
	case f == nil || f.regex != nil:
	case f.byType:
		out.TypePrefixes = f.prefixes
	default:
		out.StreamPrefixes = f.prefixes
	}
	return out
}

// admits applies the rest.
func (f *filter) admits(e *eventstore.Recorded) bool {
	if f == nil || f.regex == nil {
		return true
	}
	if f.byType {
		return f.regex.MatchString(e.Type)
	}
	return f.regex.MatchString(e.Stream)
}
