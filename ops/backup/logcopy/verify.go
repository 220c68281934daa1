package logcopy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"

	"github.com/shiplog/shiplog/eventstore"
)

// verification reads two logs side by side and compares what they show.
type verification struct {
	from, to  eventstore.Log
	head      eventstore.Position // of the source
	positions bool                // whether positions and dates must be the same too
	progress  func(Progress)
}

// run returns how many events are equal, and a digest over their places and contents.
func (v *verification) run(ctx context.Context) (uint64, eventstore.Digest, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	theirs, ours := pull(ctx, v.from, 1), pull(ctx, v.to, 1)
	defer theirs.stop()
	defer ours.stop()
	sum := sha256.New()
	equal := uint64(0)
	b, err := v.nextOurs(ctx, ours)
	if err != nil {
		return 0, eventstore.Digest{}, err
	}
	for {
		a, err := v.nextTheirs(ctx, theirs)
		if err != nil {
			return equal, eventstore.Digest{}, err
		}
		if a == nil {
			break
		}
		for b != nil && !v.same(a, b) {
			if forgotten, err := v.forgotten(ctx, b); err != nil || !forgotten {
				return equal, eventstore.Digest{}, errors.Join(err, v.differs(a, b))
			}
			if b, err = v.nextOurs(ctx, ours); err != nil {
				return equal, eventstore.Digest{}, err
			}
		}
		if b == nil {
			return equal, eventstore.Digest{}, fmt.Errorf("%w: revision %d of %s (%s, position %d of the source) is missing", ErrDiffers, a.Revision, a.Stream, a.Type, a.Position)
		}
		content := contentOf(a)
		var revision [8]byte
		binary.BigEndian.PutUint64(revision[:], a.Revision)
		sum.Write([]byte(a.Stream))
		sum.Write(revision[:])
		sum.Write(content[:])
		if equal++; equal%4096 == 0 {
			v.progress(Progress{Step: Verifying, At: a.Position, Head: v.head})
		}
		if b, err = v.nextOurs(ctx, ours); err != nil {
			return equal, eventstore.Digest{}, err
		}
	}
	for b != nil {
		if forgotten, err := v.forgotten(ctx, b); err != nil || !forgotten {
			return equal, eventstore.Digest{}, errors.Join(err, fmt.Errorf("%w: revision %d of %s (%s) is not from the source", ErrDiffers, b.Revision, b.Stream, b.Type))
		}
		if b, err = v.nextOurs(ctx, ours); err != nil {
			return equal, eventstore.Digest{}, err
		}
	}
	v.progress(Progress{Step: Verifying, At: v.head, Head: v.head})
	return equal, eventstore.Digest(sum.Sum(nil)), nil
}

// nextTheirs is the source's next event that has its equal at the same place of the target's order. Metadata has not, because servers
// write some themselves: it is compared with what counts in the target.
func (v *verification) nextTheirs(ctx context.Context, p puller) (*eventstore.Recorded, error) {
	for {
		e, err := p.event()
		if e == nil || err != nil || e.Position > v.head {
			return nil, err
		}
		base, isMeta := eventstore.MetadataOf(e.Stream)
		switch {
		case foreignStream(e.Stream), e.Type == FillerType:
		case !isMeta:
			return e, nil
		default:
			if err := v.sameMetadata(ctx, base, e); err != nil {
				return nil, err
			}
		}
	}
}

func (v *verification) nextOurs(_ context.Context, p puller) (*eventstore.Recorded, error) {
	for {
		e, err := p.event()
		if e == nil || err != nil {
			return nil, err
		}
		if _, isMeta := eventstore.MetadataOf(e.Stream); !isMeta && !foreignStream(e.Stream) && e.Type != FillerType {
			return e, nil
		}
	}
}

// same says whether two events are one. A server makes tombstones itself.
func (v *verification) same(a, b *eventstore.Recorded) bool {
	if isTombstone(a) {
		return isTombstone(b) && a.Stream == b.Stream
	}
	return a.ID == b.ID && a.Stream == b.Stream && a.Revision == b.Revision && contentOf(a) == contentOf(b) &&
		(!v.positions || a.Position == b.Position && a.Created.Equal(b.Created))
}

// contentOf is the digest of an event's content, of whose type EventStoreDB keeps only whether it is JSON.
// Of a tombstone, which every server makes itself, nothing counts but that it is there.
func contentOf(e *eventstore.Recorded) eventstore.Digest {
	if isTombstone(e) {
		return eventstore.Digest{}
	}
	p := e.Proposed
	if p.ContentType != "" && p.ContentType != "application/json" {
		p.ContentType = "application/octet-stream"
	}
	return p.ContentDigest()
}

func (v *verification) differs(a, b *eventstore.Recorded) error {
	return fmt.Errorf("%w: the source has revision %d of %s (%s, id %s, position %d), and the target revision %d of %s (%s, id %s, position %d); "+
		"if the source shows again what its retention hid when a copy began, copy into an empty target",
		ErrDiffers, a.Revision, a.Stream, a.Type, a.ID, a.Position, b.Revision, b.Stream, b.Type, b.ID, b.Position)
}

// forgotten says whether the source does not show an event any more that an earlier copy has brought.
func (v *verification) forgotten(ctx context.Context, e *eventstore.Recorded) (bool, error) {
	if isTombstone(e) {
		return false, nil
	}
	first, err := firstOf(ctx, v.from, e.Stream)
	if errors.Is(err, eventstore.ErrStreamDeleted) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if first != nil {
		return first.Revision > e.Revision, nil
	}
	metadata, err := lastOf(ctx, v.from, eventstore.MetadataStream(e.Stream))
	return metadata != nil, err
}

// sameMetadata compares a stream's metadata. $tb may be higher in the target, where it hides fillers.
func (v *verification) sameMetadata(ctx context.Context, stream string, e *eventstore.Recorded) error {
	got, revision, err := v.to.Metadata(ctx, stream)
	if errors.Is(err, eventstore.ErrStreamDeleted) {
		// Nobody can read it, nor that of the source's stream then.
		if _, _, theirs := v.from.Metadata(ctx, stream); errors.Is(theirs, eventstore.ErrStreamDeleted) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	want, err := metadataIn(e)
	if err != nil {
		want = eventstore.Metadata{}
	}
	raised := !v.positions && got.TruncateBefore > want.TruncateBefore
	if raised {
		want.TruncateBefore = got.TruncateBefore
	}
	if !reflect.DeepEqual(got, want) || revision < eventstore.Exact(e.Revision) {
		return fmt.Errorf("%w: the metadata of %s is %+v at revision %d, and in the source %+v at revision %d", ErrDiffers, stream, got, revision, want, e.Revision)
	}
	return nil
}
