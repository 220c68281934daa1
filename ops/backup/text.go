package backup

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Text writes a summary for people.
func (s *Summary) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	kind := "everything"
	if s.Header.Incremental() {
		kind = fmt.Sprintf("what came after position %d (digest %s)", s.Header.Base.Position, s.Header.Base.Digest)
	}
	row("holds", "%s", kind)
	row("up to", "position %d (digest %s)", s.Head.Position, s.Head.Digest)
	row("log", "%s", s.Log)
	row("entries", "%d, %d of them scavenged, %d bytes", s.Entries, s.Scavenged, s.Bytes)
	if s.Entries > 0 {
		row("dated", "%s to %s", s.First.Format(time.RFC3339), s.Last.Format(time.RFC3339))
	}
	keys := "none: Secrets, tokens and kubeconfigs of the cluster are not restored with it"
	if s.Keys {
		keys = "encrypted with a passphrase"
	}
	row("keys", "%s", keys)
	row("made", "%s by shiplog %s", s.Header.Created.Format(time.RFC3339), s.Header.Shiplog)
	row("state", "good: every checksum, every link and the hash over everything agree")
	return t.Flush()
}
