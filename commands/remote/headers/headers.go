// Package headers names the HTTP headers in which a component of the cluster says why it acts. The server believes them to
// components alone.
package headers

// The headers. Evidence is JSON on one line.
const (
	Cause         = "Shiplog-Cause"
	CausePosition = "Shiplog-Cause-Position"
	Correlation   = "Shiplog-Correlation"
	Evidence      = "Shiplog-Evidence"
)

// The longest values that are taken.
const (
	MaxID       = 128
	MaxEvidence = 64 << 10
)
