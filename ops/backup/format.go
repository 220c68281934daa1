package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Format is the version of the format that this build writes, and the newest that it reads.
const Format = 1

// magic begins every backup; the byte after it is the format's version.
const magic = "shiplog backup\n"

// The kinds of section, in the order in which they stand in a file.
const (
	sectionHeader  = 'H' // Header as JSON
	sectionEntries = 'E' // any number of them: entries, compressed
	sectionTrailer = 'T' // Trailer as JSON
	sectionKeys    = 'K' // perhaps one: keys, encrypted
	sectionEnd     = 'Z' // SHA-256 of all bytes ahead of this section
	sectionFailure = 'F' // in place of what should follow, in an answer over HTTP: why there is no more
)

const (
	frameBytes = 1 + 4 + 4 // kind, length, checksum
	// maxSection bounds what a section may hold, so that a damaged length costs no memory. An entry is bounded by the log.
	maxSection = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Mark is a place in a log and what its hash chain says there: the digest of the last entry at or before the position.
type Mark struct {
	Position eventstore.Position `json:"position"`
	Digest   eventstore.Digest   `json:"digest,omitzero"` // zero when the log keeps no chain
}

// Header begins a backup.
type Header struct {
	// Log tells logs apart: the digest of the log's first entry. It is zero when there is none.
	Log eventstore.Digest `json:"log,omitzero"`
	// Base is what the backup carries on from; zero when it holds everything.
	Base Mark `json:"base,omitzero"`
	// Head is where it ends. Its digest is known at the end only when the log keeps no chain itself.
	Head    Mark      `json:"head"`
	Created time.Time `json:"created"`
	Shiplog string    `json:"shiplog"` // the version that wrote it
}

// Incremental says that a backup carries on from another.
func (h *Header) Incremental() bool { return h.Base.Position > 0 }

// Trailer ends the entries of a backup.
type Trailer struct {
	Log       eventstore.Digest `json:"log,omitzero"` // as in the header; known here also when the log keeps no chain itself
	Head      Mark              `json:"head"`
	Entries   uint64            `json:"entries"`
	Scavenged uint64            `json:"scavenged"` // entries of which only their digest was left
	Bytes     uint64            `json:"bytes"`     // of the entries, uncompressed
	First     time.Time         `json:"first,omitzero"`
	Last      time.Time         `json:"last,omitzero"` // dates of the first and last entry
}

// sectionWriter writes sections and hashes what it writes.
type sectionWriter struct {
	w    io.Writer
	hash hash.Hash
	err  error // the first; nothing is written after it
}

func newSectionWriter(w io.Writer) *sectionWriter {
	s := &sectionWriter{w: w, hash: sha256.New()}
	s.raw(append([]byte(magic), Format))
	return s
}

// Write takes what another sectionWriter has written.
func (s *sectionWriter) Write(data []byte) (int, error) {
	s.raw(data)
	return len(data), s.err
}

func (s *sectionWriter) raw(data []byte) {
	if s.err != nil {
		return
	}
	s.hash.Write(data)
	if _, err := s.w.Write(data); err != nil {
		s.err = fmt.Errorf("writing the backup: %w", err)
	}
}

func (s *sectionWriter) write(kind byte, payload []byte) {
	frame := frameOf(kind, payload)
	s.raw(frame[:])
	s.raw(payload)
}

func (s *sectionWriter) writeJSON(kind byte, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("writing the backup: %w", err))
		return
	}
	s.write(kind, data)
}

// end writes the last section.
func (s *sectionWriter) end() error {
	s.write(sectionEnd, s.hash.Sum(nil))
	return s.err
}

func frameOf(kind byte, payload []byte) [frameBytes]byte {
	var frame [frameBytes]byte
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	sum := crc32.Update(crc32.Checksum(frame[:5], castagnoli), castagnoli, payload)
	binary.BigEndian.PutUint32(frame[5:], sum)
	return frame
}

// sectionReader reads sections and checks each.
type sectionReader struct {
	r      *bufio.Reader
	hash   hash.Hash
	offset int64 // of the section that was read last
	next   int64
	copy   io.Writer // gets every byte up to the last section; nil for nobody
}

func newSectionReader(r io.Reader, copy io.Writer) (*sectionReader, error) {
	s := &sectionReader{r: bufio.NewReaderSize(r, 1<<16), hash: sha256.New(), copy: copy}
	begin := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(s.r, begin); isEnd(err) {
		return nil, fmt.Errorf("%w: it ends within its first %d bytes", ErrFormat, len(begin))
	} else if err != nil {
		return nil, err
	}
	if string(begin[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if version := begin[len(magic)]; version == 0 || version > Format {
		return nil, fmt.Errorf("%w: its format is %d, this build reads up to %d: use a newer build", ErrFormat, version, Format)
	}
	s.next = int64(len(begin))
	return s, s.consumed(begin)
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

var (
	errCutOff   = errors.New("it is cut off here")
	errChecksum = errors.New("the checksum of a section does not match")
)

func (s *sectionReader) consumed(parts ...[]byte) error {
	for _, p := range parts {
		s.hash.Write(p)
		if s.copy != nil {
			if _, err := s.copy.Write(p); err != nil {
				return fmt.Errorf("writing the backup: %w", err)
			}
		}
	}
	return nil
}

// read returns the next section. Its errors are not yet DamageErrors.
func (s *sectionReader) read() (kind byte, payload []byte, err error) {
	s.offset = s.next
	var frame [frameBytes]byte
	if _, err := io.ReadFull(s.r, frame[:]); err != nil {
		return 0, nil, cutOff(err)
	}
	length := binary.BigEndian.Uint32(frame[1:])
	if length > maxSection {
		return 0, nil, fmt.Errorf("a section claims to have %d bytes", length)
	}
	// What a damaged length promises is not believed before it has been read.
	payload = make([]byte, 0, min(length, 4<<20))
	for uint32(len(payload)) < length {
		n := min(int(length)-len(payload), max(cap(payload)-len(payload), 4<<20))
		at := len(payload)
		payload = append(payload, make([]byte, n)...)
		if _, err := io.ReadFull(s.r, payload[at:]); err != nil {
			return 0, nil, cutOff(err)
		}
	}
	if frameOf(frame[0], payload) != frame {
		return 0, nil, errChecksum
	}
	s.next += frameBytes + int64(length)
	if frame[0] == sectionEnd {
		if string(s.hash.Sum(nil)) != string(payload) {
			return 0, nil, errors.New("the hash over everything does not match")
		}
		if _, err := s.r.ReadByte(); err == nil {
			return 0, nil, errors.New("something follows the end")
		} else if !errors.Is(err, io.EOF) {
			return 0, nil, err
		}
		return frame[0], nil, nil
	}
	return frame[0], payload, s.consumed(frame[:], payload)
}

func cutOff(err error) error {
	if isEnd(err) {
		return errCutOff
	}
	return err
}
