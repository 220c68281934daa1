package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/shiplog/shiplog/eventstore"
)

// Source is what a backup is made of. Every eventstore.Chained is one; Unchained makes one of any other log.
type Source interface {
	Head(ctx context.Context) (eventstore.Position, error)
	Entries(ctx context.Context, from, to eventstore.Position) iter.Seq2[eventstore.Entry, error]
	DigestAt(ctx context.Context, position eventstore.Position) (eventstore.Digest, error)
}

// Options of a backup. The zero value makes a full one.
type Options struct {
	Base    Mark              // carry on from here; the log must have this digest there
	Log     eventstore.Digest // with Base: the log that it is of; zero when that is not known
	Shiplog string            // the version of the program
	Now     time.Time         // when the backup is made
	// KeysOf, when set, is the data directory whose keys go into the backup, encrypted with the passphrase.
	KeysOf     string
	Passphrase string
	work       int // scrypt's, as a power of two; 0: the library's
	// Progress, when set, is called now and then with the position that was reached and the one at the end.
	Progress func(at, head eventstore.Position)
}

// chunkBytes is how much, uncompressed, goes into one section.
const chunkBytes = 1 << 20

// Write writes a backup of everything up to the log's head as it is now. What it writes is complete only when it returns without
// error. Errors: ErrForeign when the log is not the one that the base is of; ErrUnsound when its chain does not verify.
func Write(ctx context.Context, w io.Writer, source Source, o Options) (Trailer, error) {
	var header Header
	keys, err := keysWith(o.KeysOf, func() (err error) {
		header, err = begin(ctx, source, o)
		return err
	})
	if err != nil {
		return Trailer{}, fmt.Errorf("backing up: %w", err)
	}
	b, err := newWriter(newSectionWriter(w), header)
	if err != nil {
		return Trailer{}, err
	}
	for e, err := range source.Entries(ctx, header.Base.Position+1, header.Head.Position) {
		if err != nil {
			return Trailer{}, fmt.Errorf("backing up after position %d: %w", b.at.Position, err)
		}
		if err := b.add(&e); err != nil {
			return Trailer{}, err
		}
		if o.Progress != nil && b.trailer.Entries%4096 == 0 {
			o.Progress(b.at.Position, header.Head.Position)
		}
	}
	if err := b.finish(); err != nil {
		return Trailer{}, err
	}
	if o.Progress != nil {
		o.Progress(header.Head.Position, header.Head.Position)
	}
	return b.trailer, finish(b.out, keys, b.trailer, o)
}

// finish writes what follows the trailer.
func finish(out *sectionWriter, keys Keys, t Trailer, o Options) error {
	if o.KeysOf != "" {
		sealed, err := seal(keys, t, o.Passphrase, o.work)
		if err != nil {
			return err
		}
		out.write(sectionKeys, sealed)
	}
	return out.end()
}

// keysWith reads the keys that go with a head. Keys of Secrets come and go while the log grows: of a moment after the head some may
// be gone that an entry below it needs. So the head is read again until the keys were the same before and after.
func keysWith(dir string, head func() error) (Keys, error) {
	if dir == "" {
		return nil, head()
	}
	const tries = 100
	for range tries {
		before, err := ReadKeys(dir)
		if err != nil {
			return nil, err
		}
		if err := head(); err != nil {
			return nil, err
		}
		after, err := ReadKeys(dir)
		if err != nil {
			return nil, err
		}
		if before.equal(after) {
			return after, nil
		}
	}
	return nil, fmt.Errorf("the keys of %s changed %d times while they were read: try again when fewer Secrets change", dir, tries)
}

// begin finds out what the backup will hold.
func begin(ctx context.Context, source Source, o Options) (Header, error) {
	h := Header{Base: o.Base, Created: o.Now, Shiplog: o.Shiplog, Log: o.Log}
	head, err := source.Head(ctx)
	if err != nil {
		return h, err
	}
	h.Head.Position = head
	if h.Head.Digest, err = source.DigestAt(ctx, head); err != nil && !errors.Is(err, errNoChain) {
		return h, err
	}
	chained := err == nil
	if o.Base.Position > head {
		return h, fmt.Errorf("%w: it carries on from position %d, and the log ends at %d", ErrForeign, o.Base.Position, head)
	}
	if chained {
		log, err := identity(ctx, source, head)
		if err != nil {
			return h, err
		}
		if o.Log != (eventstore.Digest{}) && o.Log != log {
			return h, fmt.Errorf("%w: that is %s, this is %s", ErrForeign, short(o.Log), short(log))
		}
		h.Log = log
		if o.Base.Position > 0 {
			digest, err := source.DigestAt(ctx, o.Base.Position)
			if err != nil {
				return h, err
			}
			if o.Base.Digest != (eventstore.Digest{}) && digest != o.Base.Digest {
				return h, fmt.Errorf("%w: at position %d its digest is %s, here it is %s", ErrForeign, o.Base.Position, short(o.Base.Digest), short(digest))
			}
			h.Base.Digest = digest
		}
	}
	if h.Incremental() && h.Base.Digest == (eventstore.Digest{}) {
		return h, fmt.Errorf("the log keeps no hash chain, so position %d alone does not say what to carry on from: name the backup that ends there", h.Base.Position)
	}
	return h, nil
}

// identity is what tells a log from others: the digest of its first entry.
func identity(ctx context.Context, source Source, head eventstore.Position) (eventstore.Digest, error) {
	for e, err := range source.Entries(ctx, 1, head) {
		return e.Digest, err
	}
	return eventstore.Digest{}, nil
}

// short is enough of a digest for people to tell two apart.
func short(d eventstore.Digest) string { return d.String()[:12] }

// writer writes entries one after the other.
type writer struct {
	out     *sectionWriter
	header  Header
	at      Mark // of the last entry
	trailer Trailer
	chunk   []byte
	zstd    *zstd.Encoder
	pending int // entries in the chunk
	packed  []byte
}

func newWriter(out *sectionWriter, h Header) (*writer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	b := &writer{out: out, header: h, at: h.Base, trailer: Trailer{Log: h.Log}, zstd: encoder, chunk: make([]byte, 0, chunkBytes+chunkBytes/4)}
	b.out.writeJSON(sectionHeader, h)
	return b, b.out.err
}

// add adds an entry and checks that it follows from the one before.
func (b *writer) add(e *eventstore.Entry) error {
	if hasContent(e) {
		content := e.ContentDigest()
		if e.Content != content && e.Content != (eventstore.Digest{}) {
			return fmt.Errorf("%w: the content of the event at position %d is not what was recorded: run `shiplog verify`", ErrUnsound, e.Position)
		}
		e.Content = content
	}
	if e.Position <= b.at.Position {
		return fmt.Errorf("%w: position %d follows %d: run `shiplog verify`", ErrUnsound, e.Position, b.at.Position)
	}
	digest := eventstore.Link(b.at.Digest, e)
	if e.Digest != digest && e.Digest != (eventstore.Digest{}) {
		return fmt.Errorf("%w: the entry at position %d does not follow from the one at %d: run `shiplog verify`", ErrUnsound, e.Position, b.at.Position)
	}
	t := &b.trailer
	if t.Entries == 0 {
		t.First = e.Created.UTC()
		if !b.header.Incremental() {
			t.Log = digest
		}
	}
	t.Entries++
	t.Last = e.Created.UTC()
	if e.Scavenged {
		t.Scavenged++
	}
	b.chunk = appendEntry(b.chunk, b.at.Position, e)
	b.at = Mark{Position: e.Position, Digest: digest}
	if b.pending++; len(b.chunk) >= chunkBytes {
		b.flush()
	}
	return b.out.err
}

func (b *writer) flush() {
	if b.pending == 0 {
		return
	}
	b.trailer.Bytes += uint64(len(b.chunk))
	b.chunk = append(b.chunk, b.at.Digest[:]...)
	b.packed = b.zstd.EncodeAll(b.chunk, b.packed[:0])
	b.out.write(sectionEntries, b.packed)
	b.chunk, b.pending = b.chunk[:0], 0
}

// finish writes the trailer.
func (b *writer) finish() error {
	b.flush()
	b.trailer.Head = Mark{Position: b.header.Head.Position, Digest: b.at.Digest}
	if want := b.header.Head.Digest; want != (eventstore.Digest{}) && want != b.at.Digest {
		return fmt.Errorf("%w: its head at position %d is not where its entries lead: run `shiplog verify`", ErrUnsound, b.header.Head.Position)
	}
	b.out.writeJSON(sectionTrailer, b.trailer)
	return b.out.err
}
