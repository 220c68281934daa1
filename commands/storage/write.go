package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// maxAttempts bounds how often a write that keeps losing races is computed again.
const maxAttempts = 64

// errRaced says that an append found the stream elsewhere than the write was computed from.
var errRaced = errors.New("the object changed meanwhile")

// Create implements storage.Interface.
func (s *Store) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := RefusePast(ctx); err != nil {
		return err
	}
	ref, err := s.object(key)
	if err != nil {
		return err
	}
	if v, err := s.ver.ObjectResourceVersion(obj); err == nil && v != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.ver.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	if _, exists := s.live.Snapshot().Get(s.gr, ref.Namespace, ref.Name); exists {
		// The live view may not have heard of a deletion yet.
		snap, err := s.Current(ctx)
		if err != nil {
			return err
		}
		if _, exists := snap.Get(s.gr, ref.Namespace, ref.Name); exists {
			return storage.NewKeyExistsError(key, 0)
		}
	}
	return s.create(ctx, key, ref, obj, out, ttl)
}

// create appends the first event of an incarnation: to a stream that is not there yet, or after the deletion that ended the
// incarnation before. So a name is never taken twice, whoever races for it.
func (s *Store) create(ctx context.Context, key string, ref domain.Ref, obj, out runtime.Object, ttl uint64) error {
	typed, err := s.stored(obj)
	if err != nil {
		return err
	}
	ref.UID = uidOf(typed).UID
	enc, err := s.encode(ctx, ref, typed, nil)
	if err != nil {
		return err
	}
	expected := eventstore.NoStream
	for range maxAttempts {
		position, err := s.append(ctx, change{op: domain.Created, ref: ref, expected: expected, after: typed, json: enc.json, ttl: ttl}, out)
		if err == nil {
			err = s.seen(ctx, position, out)
			s.settle(enc, err)
			return err
		}
		var wrong *eventstore.WrongExpectedRevisionError
		if !errors.As(err, &wrong) {
			s.settle(enc, err)
			return err
		}
		if expected, err = s.afterDeletion(ctx, key, ref, wrong.Actual); err != nil {
			s.unused(ctx, enc)
			return err
		}
	}
	s.unused(ctx, enc)
	return fmt.Errorf("creating %s: %w %d times", ref, errRaced, maxAttempts)
}

// afterDeletion returns the revision that a creation expects of a stream that is there: that of the deletion it ends with.
func (s *Store) afterDeletion(ctx context.Context, key string, ref domain.Ref, actual eventstore.Expected) (eventstore.Expected, error) {
	if actual < 0 {
		return eventstore.NoStream, nil
	}
	for rec, err := range s.log.ReadStream(ctx, ref.Stream(), eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("reading the last event of %s: %w", ref, err)
		}
		ev, _, err := projections.EventOf(rec)
		if err != nil {
			return 0, fmt.Errorf("reading the last event of %s: %w", ref, err)
		}
		if ev.Op != domain.Deleted {
			return 0, storage.NewKeyExistsError(key, 0)
		}
		return eventstore.Exact(rec.Revision), nil
	}
	// Retention has taken the stream's events; an object that is still there would be in the live view.
	snap, err := s.Current(ctx)
	if err != nil {
		return 0, err
	}
	if _, exists := snap.Get(s.gr, ref.Namespace, ref.Name); exists {
		return 0, storage.NewKeyExistsError(key, 0)
	}
	return actual, nil
}

// Delete implements storage.Interface. The suggested existing object is not needed: the live view is current.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions,
) error {
	if err := RefusePast(ctx); err != nil {
		return err
	}
	ref, err := s.object(key)
	if err != nil {
		return err
	}
	for range maxAttempts {
		snap, err := s.Current(ctx)
		if err != nil {
			return err
		}
		o, ok := snap.Get(s.gr, ref.Namespace, ref.Name)
		if !ok {
			return storage.NewKeyNotFoundError(key, 0)
		}
		existing, err := s.memory(o)
		if err != nil {
			return err
		}
		if err := preconditions.Check(key, existing); err != nil {
			return err
		}
		if validate != nil {
			if err := validate(ctx, existing); err != nil {
				return err
			}
		}
		before, err := o.Typed()
		if err != nil {
			return fmt.Errorf("reading %s: %w", o.Ref, err)
		}
		if err := s.into(o, out); err != nil {
			return err
		}
		ref.UID = uidOf(before).UID
		position, err := s.append(ctx, change{op: domain.Deleted, ref: ref, expected: eventstore.Exact(o.Revision), from: o, before: before}, nil)
		if err == nil {
			if err := s.seen(ctx, position, out); err != nil {
				return err
			}
			return s.erased(ctx, o, position)
		}
		if !errors.Is(err, eventstore.ErrWrongExpectedRevision) {
			return err
		}
	}
	return fmt.Errorf("deleting %s: %w %d times", ref, errRaced, maxAttempts)
}

// GuaranteedUpdate implements storage.Interface. The suggested existing object is not needed: the live view is current.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object,
) error {
	if err := RefusePast(ctx); err != nil {
		return err
	}
	ref, err := s.object(key)
	if err != nil {
		return err
	}
	for range maxAttempts {
		snap, err := s.Current(ctx)
		if err != nil {
			return err
		}
		o, ok := snap.Get(s.gr, ref.Namespace, ref.Name)
		if !ok && !ignoreNotFound {
			return storage.NewKeyNotFoundError(key, 0)
		}
		done, err := s.update(ctx, key, ref, o, destination, preconditions, tryUpdate)
		if done || err != nil {
			return err
		}
	}
	return storage.NewResourceVersionConflictsError(key, 0)
}

// update tries an update of one state of an object (nil: it is not there) and says whether it is done.
func (s *Store) update(ctx context.Context, key string, ref domain.Ref, o *projections.Object, destination runtime.Object,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc,
) (bool, error) {
	input, info := s.newObj(), storage.ResponseMeta{}
	if o != nil {
		shared, err := s.memory(o)
		if err != nil {
			return false, err
		}
		input, info.ResourceVersion = shared.DeepCopyObject(), o.Position
	}
	if err := preconditions.Check(key, input); err != nil {
		return false, err
	}
	output, ttlPtr, err := tryUpdate(input, info)
	if err != nil {
		return false, err
	}
	if err := s.ver.PrepareObjectForStorage(output); err != nil {
		return false, fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	var ttl uint64
	if ttlPtr != nil {
		ttl = *ttlPtr
	}
	if o == nil {
		err := s.create(ctx, key, ref, output, destination, ttl)
		if storage.IsExist(err) {
			return false, nil // somebody was quicker: update what there is now
		}
		return err == nil, err
	}
	typed, err := s.stored(output)
	if err != nil {
		return false, err
	}
	ref.UID = uidOf(typed).UID
	if o.Ref.UID != "" && ref.UID != o.Ref.UID {
		return false, storage.NewInvalidObjError(key, fmt.Sprintf("the uid tells the incarnations of a name apart and cannot change from %s to %s", o.Ref.UID, ref.UID))
	}
	enc, err := s.encode(ctx, ref, typed, o)
	if err != nil {
		return false, err
	}
	if bytes.Equal(enc.json, o.JSON) {
		return true, s.into(o, destination)
	}
	before, err := o.Typed()
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", o.Ref, err)
	}
	position, err := s.append(ctx, change{
		op: domain.Changed, ref: ref, expected: eventstore.Exact(o.Revision), from: o, before: before, after: typed, json: enc.json, erased: enc.erased, ttl: ttl,
	}, destination)
	switch {
	case errors.Is(err, eventstore.ErrWrongExpectedRevision):
		s.unused(ctx, enc)
		return false, nil
	case err != nil:
		s.settle(enc, err)
		return false, err
	}
	err = s.seen(ctx, position, destination)
	s.settle(enc, err)
	return true, err
}

// seen waits until the live view reflects a write, so that whoever wrote sees it, and gives the written object its version.
func (s *Store) seen(ctx context.Context, position uint64, out runtime.Object) error {
	if err := s.live.WaitFor(ctx, position); err != nil {
		return fmt.Errorf("the change was committed at position %d, but the live view did not reach that: %w", position, err)
	}
	if out == nil {
		return nil
	}
	return s.setVersion(out, position)
}
