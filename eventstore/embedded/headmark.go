package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

// headFile remembers, beside Pebble, how far the log has come. Pebble takes damage at the end of its write-ahead log for a
// write that a crash has torn, and goes on without what follows it; the mark tells the two apart. It is written after
// each sync and not synced itself: what of it reaches the disk is never ahead of the log.
const headFile = "HEAD"

const headMarkSize = 12 // position, crc32c

type headMark struct{ file vfs.File }

// readHeadMark returns the marked position, 0 when there is no mark or power failed while it was written.
func readHeadMark(fs vfs.FS, dir string) (eventstore.Position, error) {
	data, err := readFile(fs, fs.PathJoin(dir, headFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the mark of the head: %w", err)
	}
	if len(data) < headMarkSize || crc32.Checksum(data[:8], castagnoli) != binary.BigEndian.Uint32(data[8:]) {
		return 0, nil
	}
	return eventstore.Position(binary.BigEndian.Uint64(data)), nil
}

// checkHeadMark returns ErrCorrupt when the log ends before its mark.
func checkHeadMark(fs vfs.FS, dir string, head eventstore.Position) error {
	mark, err := readHeadMark(fs, dir)
	if err != nil || mark <= head {
		return err
	}
	return fmt.Errorf("%w: events up to position %d were acknowledged and the log ends at %d: its write-ahead log is damaged; restore the directory from a backup, or remove %s to go on with what is left",
		eventstore.ErrCorrupt, mark, head, fs.PathJoin(dir, headFile))
}

func openHeadMark(fs vfs.FS, dir string) (*headMark, error) {
	file, err := fs.OpenReadWrite(fs.PathJoin(dir, headFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("opening the mark of the head: %w", err)
	}
	return &headMark{file: file}, nil
}

func (m *headMark) set(head eventstore.Position) error {
	var data [headMarkSize]byte
	binary.BigEndian.PutUint64(data[:], uint64(head))
	binary.BigEndian.PutUint32(data[8:], crc32.Checksum(data[:8], castagnoli))
	_, err := m.file.WriteAt(data[:], 0)
	return err
}

func (m *headMark) close() error { return errors.Join(m.file.Sync(), m.file.Close()) }
