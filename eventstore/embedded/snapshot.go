package embedded

import "github.com/cockroachdb/pebble/v2"

// snapshot is Pebble as it was at a moment.
type snapshot struct {
	*pebble.Snapshot
	fuse *fuse
}

func (l *Log) snapshot() snapshot { return snapshot{l.db.NewSnapshot(), l.fuse} }

// Close lets Pebble forget the moment. It looks for something to compact then, and a change of a file that was halted keeps it waiting
// for ever: whoever has read is not kept by that.
func (s snapshot) Close() error {
	if err := s.fuse.await(s.Snapshot.Close); s.fuse.blown() == nil {
		return err
	}
	return nil
}
