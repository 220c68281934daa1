package eventstore

import "strings"

// Admits says whether the filter lets an event of this type in this stream through. An event is a system event when its
// stream's name or its type begins with "$" (a tombstone, for one, is of type "$streamDeleted" in an ordinary stream).
func (f Filter) Admits(stream, eventType string) bool {
	if !f.System && (strings.HasPrefix(stream, "$") || strings.HasPrefix(eventType, "$")) {
		return false
	}
	return hasAnyPrefix(stream, f.StreamPrefixes) && hasAnyPrefix(eventType, f.TypePrefixes)
}

// AdmitsAll says that the filter lets every event through, so that nobody needs to look.
func (f Filter) AdmitsAll() bool {
	return f.System && len(f.StreamPrefixes) == 0 && len(f.TypePrefixes) == 0
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return len(prefixes) == 0
}
