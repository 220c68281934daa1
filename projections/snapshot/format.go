package snapshot

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/shiplog/shiplog/eventstore"
)

// A file is
//
//	magic, u32 format, u32 length and u32 crc32c of the header, header as JSON
//	frames: u32 length (never 0), u32 length before compression, u32 crc32c, zstd of what writeFrame made
//	end: u32 0, u32 number of frames, u32 crc32c over the checksums of all frames
//
// with numbers big-endian. Every byte is covered by a checksum or compared with what it must be.
const (
	magic         = "shipsnap"
	formatVersion = 1

	frameBytes = 256 << 10 // of a frame before compression, about
	maxHeader  = 1 << 20
	maxFrame   = 1 << 30
)

// Header says what a snapshot is of.
type Header struct {
	Log      string              `json:"log"`      // what tells the log from every other
	Position eventstore.Position `json:"position"` // the last event that the objects reflect
	// Anchor is an event at or before the position: a log that went on differently after it was restored has another there.
	Anchor Anchor `json:"anchor"`
	// Digest of the log's hash chain at the position; nil when the log keeps none.
	Digest  *eventstore.Digest `json:"digest,omitempty"`
	Schema  int                `json:"schema"`  // domain.SchemaVersion
	Fold    string             `json:"fold"`    // foldHash of the build that wrote it
	Objects int                `json:"objects"` // how many there are
	Created time.Time          `json:"created"`
}

// Anchor names an event by its position and id.
type Anchor struct {
	Position eventstore.Position `json:"position"`
	ID       string              `json:"id"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged says that a file is not what was written.
var errDamaged = errors.New("it is damaged")

// writer writes a file's frames.
type writer struct {
	out    *bufio.Writer
	zstd   *zstd.Encoder
	packed []byte
	frames uint32
	sums   uint32
}

func newWriter(out io.Writer, h Header) (*writer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	w := &writer{out: bufio.NewWriterSize(out, 256<<10), zstd: encoder}
	if _, err := w.out.WriteString(magic); err != nil {
		return nil, err
	}
	if err := w.numbers(formatVersion, uint32(len(header)), crc32.Checksum(header, castagnoli)); err != nil {
		return nil, err
	}
	_, err = w.out.Write(header)
	return w, err
}

func (w *writer) numbers(numbers ...uint32) error {
	var buf [12]byte
	for i, n := range numbers {
		binary.BigEndian.PutUint32(buf[4*i:], n)
	}
	_, err := w.out.Write(buf[:4*len(numbers)])
	return err
}

func (w *writer) frame(raw []byte) error {
	w.packed = w.zstd.EncodeAll(raw, w.packed[:0])
	sum := crc32.Checksum(w.packed, castagnoli)
	if err := w.numbers(uint32(len(w.packed)), uint32(len(raw)), sum); err != nil {
		return err
	}
	w.frames++
	w.sums = addSum(w.sums, sum)
	_, err := w.out.Write(w.packed)
	return err
}

func (w *writer) end() error {
	if err := w.numbers(0, w.frames, w.sums); err != nil {
		return err
	}
	return w.out.Flush()
}

func addSum(sums, sum uint32) uint32 {
	return crc32.Update(sums, castagnoli, binary.BigEndian.AppendUint32(nil, sum))
}

// packed is a frame as it stands in the file.
type packed struct {
	data []byte
	size int // before compression
}

// unpack returns what was given to writer.frame.
func (p packed) unpack(d *zstd.Decoder) ([]byte, error) {
	raw, err := d.DecodeAll(p.data, make([]byte, 0, p.size))
	if err != nil || len(raw) != p.size {
		return nil, fmt.Errorf("%w: a frame does not decompress", errDamaged)
	}
	return raw, nil
}

// reader reads what writer wrote.
type reader struct {
	in     *bufio.Reader
	frames uint32
	sums   uint32
}

// newReader reads the header. Only after the last frame it is known that the file is whole.
func newReader(in io.Reader) (*reader, Header, error) {
	r := &reader{in: bufio.NewReaderSize(in, 256<<10)}
	var h Header
	head := make([]byte, len(magic)+12)
	if err := r.fill(head); err != nil {
		return nil, h, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, h, fmt.Errorf("%w: it does not begin as a snapshot", errDamaged)
	}
	numbers := head[len(magic):]
	if format := binary.BigEndian.Uint32(numbers); format != formatVersion {
		return nil, h, &misfit{fmt.Sprintf("it has format %d, this build reads %d", format, formatVersion)}
	}
	size, sum := binary.BigEndian.Uint32(numbers[4:]), binary.BigEndian.Uint32(numbers[8:])
	if size > maxHeader {
		return nil, h, fmt.Errorf("%w: its header is too long", errDamaged)
	}
	header := make([]byte, size)
	if err := r.fill(header); err != nil {
		return nil, h, err
	}
	if crc32.Checksum(header, castagnoli) != sum {
		return nil, h, fmt.Errorf("%w: its header's checksum is wrong", errDamaged)
	}
	if err := json.Unmarshal(header, &h); err != nil {
		return nil, h, fmt.Errorf("%w: its header: %w", errDamaged, err)
	}
	return r, h, nil
}

// fill reads len(b) bytes.
func (r *reader) fill(b []byte) error {
	_, err := io.ReadFull(r.in, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", errDamaged)
	}
	return err
}

// next returns the next frame, io.EOF after the last, when the file has been found whole.
func (r *reader) next() (packed, error) {
	var numbers [12]byte
	if err := r.fill(numbers[:]); err != nil {
		return packed{}, err
	}
	size, raw, sum := binary.BigEndian.Uint32(numbers[:]), binary.BigEndian.Uint32(numbers[4:]), binary.BigEndian.Uint32(numbers[8:])
	if size == 0 {
		if raw != r.frames || sum != r.sums {
			return packed{}, fmt.Errorf("%w: frames are missing", errDamaged)
		}
		if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
			return packed{}, fmt.Errorf("%w: something follows its end", errDamaged)
		}
		return packed{}, io.EOF
	}
	if size > maxFrame || raw > maxFrame {
		return packed{}, fmt.Errorf("%w: a frame is too long", errDamaged)
	}
	data, err := r.bytes(int(size))
	if err != nil {
		return packed{}, err
	}
	if crc32.Checksum(data, castagnoli) != sum {
		return packed{}, fmt.Errorf("%w: a frame's checksum is wrong", errDamaged)
	}
	r.frames++
	r.sums = addSum(r.sums, sum)
	return packed{data, int(raw)}, nil
}

// bytes reads n bytes. A length that is wrong costs no more memory than the file is long.
func (r *reader) bytes(n int) ([]byte, error) {
	const step = 4 << 20
	data := make([]byte, 0, min(n, step))
	for len(data) < n {
		begin := len(data)
		data = append(data, make([]byte, min(n-begin, step))...)
		if err := r.fill(data[begin:]); err != nil {
			return nil, err
		}
	}
	return data, nil
}
