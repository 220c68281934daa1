package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// misfit says why a snapshot is not of this log or not of this build.
type misfit struct{ why string }

func (m *misfit) Error() string { return m.why }

// fits says whether a snapshot is of this build's fold and of this log as it is now: nil, a *misfit, or an error of the log.
func (d *Dir) fits(ctx context.Context, h Header) error {
	switch {
	case h.Schema != domain.SchemaVersion:
		return &misfit{fmt.Sprintf("it is of schema version %d, this build folds version %d", h.Schema, domain.SchemaVersion)}
	case h.Fold != d.foldHash():
		return &misfit{"this build folds events in another way than the one that made it"}
	case d.Log == nil:
		return nil
	}
	head, err := d.Log.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the log's head: %w", err)
	}
	if h.Position > head {
		return &misfit{fmt.Sprintf("it is of position %d, and the log ends at %d: the log has been restored from a backup, or is another", h.Position, head)}
	}
	identity, err := projections.LogIdentity(ctx, d.Log)
	switch {
	case errors.Is(err, eventstore.ErrReadOnly): // the log has none, and can be given none
		return &misfit{"it is of another log"}
	case err != nil:
		return err
	case identity != h.Log:
		return &misfit{"it is of another log"}
	}
	if chained, ok := d.Log.(eventstore.Chained); ok && h.Digest != nil {
		digest, err := chained.DigestAt(ctx, h.Position)
		if err != nil {
			return fmt.Errorf("reading the log's digest at position %d: %w", h.Position, err)
		}
		if digest != *h.Digest {
			return &misfit{fmt.Sprintf("up to position %d the log holds something else than it was made of", h.Position)}
		}
		return nil
	}
	anchor, err := d.anchor(ctx, h.Anchor.Position, 1)
	if err != nil {
		return err
	}
	if anchor != h.Anchor {
		return &misfit{fmt.Sprintf("at position %d the log does not hold the event that it did", h.Anchor.Position)}
	}
	return nil
}

// anchorWithin is how many events are looked at for one that will stay.
const anchorWithin = 4096

// anchor returns the last event at or before a position, of the next few one that the log will keep, if there is one.
func (d *Dir) anchor(ctx context.Context, position eventstore.Position, within int) (Anchor, error) {
	var last Anchor
	for r, err := range d.Log.ReadAll(ctx, eventstore.ReadAll{Direction: eventstore.Backwards, From: position, Limit: within}) {
		if err != nil {
			return Anchor{}, fmt.Errorf("reading the event before position %d: %w", position, err)
		}
		a := Anchor{Position: r.Position, ID: r.ID.String()}
		if last == (Anchor{}) {
			last = a
		}
		ref, object := domain.ParseStream(r.Stream)
		if kind, known := d.Kinds.ByResource(ref.GroupResource()); object && !(known && kind.Retained()) {
			return a, nil
		}
	}
	return last, nil
}
