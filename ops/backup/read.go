package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/shiplog/shiplog/eventstore"
)

// Reader reads a backup and checks it while it does: the checksum of every section, the link of every entry, and at the end the
// counts, the digest at the head and the hash over everything. Nothing that it returns may be relied on before Next has returned
// io.EOF.
type Reader struct {
	Header  Header
	trailer Trailer
	sealed  []byte
	in      *sectionReader
	at      Mark
	seen    Trailer // what was counted
	zstd    *zstd.Decoder
	names   map[string]string
	err     error
}

// NewReader reads a backup's header. Errors: ErrFormat, ErrDamaged.
func NewReader(r io.Reader) (*Reader, error) { return newReader(r, nil) }

// newReader copies what it reads, up to the section at the end, to another writer.
func newReader(r io.Reader, copy io.Writer) (*Reader, error) {
	in, err := newSectionReader(r, copy)
	if err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSection))
	if err != nil {
		return nil, err
	}
	b := &Reader{in: in, zstd: decoder, names: make(map[string]string)}
	kind, payload, err := in.read()
	if err == nil && kind != sectionHeader {
		err = fmt.Errorf("a section %q stands where the header should", kind)
	}
	if err == nil {
		err = json.Unmarshal(payload, &b.Header)
	}
	if err != nil {
		return nil, b.damage(err)
	}
	b.at = b.Header.Base
	return b, nil
}

func (b *Reader) damage(cause error) error {
	b.err = &DamageError{Offset: b.in.offset, After: b.at.Position, Cause: cause}
	return b.err
}

// At is where reading has got to.
func (b *Reader) At() Mark { return b.at }

// Trailer is what the backup says of itself at its end. It is set when Next has returned io.EOF.
func (b *Reader) Trailer() Trailer { return b.trailer }

// HasKeys says whether the backup holds keys. It is known when Next has returned io.EOF.
func (b *Reader) HasKeys() bool { return b.sealed != nil }

// Next returns the next entries, with their digests, and io.EOF when there are no more and the whole backup was found good.
func (b *Reader) Next() ([]eventstore.Entry, error) {
	if b.err != nil {
		return nil, b.err
	}
	kind, payload, err := b.in.read()
	if err != nil {
		return nil, b.damage(err)
	}
	if kind == sectionEntries {
		entries, err := b.entries(payload)
		if err != nil {
			return nil, b.damage(err)
		}
		return entries, nil
	}
	if kind == sectionFailure {
		b.err = fmt.Errorf("backing up after position %d: %s", b.at.Position, payload)
		return nil, b.err
	}
	if err := b.finish(kind, payload); err != nil {
		return nil, b.damage(err)
	}
	b.err = io.EOF
	return nil, io.EOF
}

func (b *Reader) entries(payload []byte) ([]eventstore.Entry, error) {
	raw, err := b.zstd.DecodeAll(payload, nil)
	if err != nil {
		return nil, err
	}
	split := len(raw) - len(eventstore.Digest{})
	if split < 0 {
		return nil, errEntry
	}
	b.seen.Bytes += uint64(split)
	r := entryReader{rest: raw[:split], text: b.names}
	var out []eventstore.Entry
	for len(r.rest) > 0 {
		e, err := r.entry(b.at)
		if err != nil {
			return nil, err
		}
		b.at = Mark{Position: e.Position, Digest: e.Digest}
		b.count(&e)
		out = append(out, e)
	}
	if string(raw[split:]) != string(b.at.Digest[:]) {
		return nil, errors.New("its entries do not lead to the digest that is recorded for them")
	}
	return out, nil
}

func (b *Reader) count(e *eventstore.Entry) {
	if b.seen.Entries == 0 {
		b.seen.First = e.Created
		if b.seen.Log = b.Header.Log; !b.Header.Incremental() {
			b.seen.Log = e.Digest
		}
	}
	b.seen.Entries++
	b.seen.Last = e.Created
	if e.Scavenged {
		b.seen.Scavenged++
	}
}

// finish reads the sections that follow the entries.
func (b *Reader) finish(kind byte, payload []byte) (err error) {
	if kind != sectionTrailer {
		return fmt.Errorf("a section %q stands where entries or the trailer should", kind)
	}
	if err := json.Unmarshal(payload, &b.trailer); err != nil {
		return err
	}
	if b.seen.Entries == 0 {
		b.seen.Log = b.Header.Log
	}
	if b.seen.Head = (Mark{Position: b.Header.Head.Position, Digest: b.at.Digest}); b.seen != b.trailer {
		return errors.New("the trailer does not say what was read")
	}
	if want := b.Header.Head.Digest; want != (eventstore.Digest{}) && want != b.at.Digest || b.at.Position > b.Header.Head.Position {
		return errors.New("the entries do not end where the header says")
	}
	if want := b.Header.Log; want != (eventstore.Digest{}) && want != b.trailer.Log {
		return errors.New("the first entry is not of the log that the header names")
	}
	if kind, payload, err = b.in.read(); err != nil {
		return err
	}
	if kind == sectionKeys {
		b.sealed = payload
		if kind, _, err = b.in.read(); err != nil {
			return err
		}
	}
	if kind != sectionEnd {
		return fmt.Errorf("a section %q stands where the end should", kind)
	}
	return nil
}
