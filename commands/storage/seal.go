package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/projections"
)

// encoded is an object as the log will hold it.
type encoded struct {
	json   []byte
	key    string // the data key that was made for it; "" for none
	erased bool   // it keeps a payload that cannot be read
}

// encode writes an object as the log will hold it: what its kind seals as ciphertext, by a key made for it, or, when the payload
// is that of the object that it is to replace (nil: none), as it is sealed there. The typed form loses a marker that it no longer deserves.
func (s *Store) encode(ctx context.Context, ref domain.Ref, typed runtime.Object, from *projections.Object) (encoded, error) {
	if s.keys == nil || len(s.kind.Sealed) == 0 {
		js, err := domain.Encode(s.kind, typed)
		if err != nil {
			return encoded{}, fmt.Errorf("encoding %s: %w", ref, err)
		}
		return encoded{json: js}, nil
	}
	enc, err := s.seal(ctx, ref, typed, from)
	if err != nil {
		return encoded{}, fmt.Errorf("sealing %s: %w", ref, err)
	}
	if !enc.erased {
		unmark(typed)
	}
	return enc, nil
}

func (s *Store) seal(ctx context.Context, ref domain.Ref, typed runtime.Object, from *projections.Object) (encoded, error) {
	js, err := domain.Encode(s.kind, typed)
	if err != nil {
		return encoded{}, err
	}
	rest, payload := s.kind.Split(js)
	if from != nil && from.Ref.UID == ref.UID {
		kept, err := s.sealedAs(rest, payload, from)
		if err != nil || kept.json != nil {
			return kept, err
		}
	}
	if payload == nil {
		return encoded{json: rest}, nil
	}
	key, err := s.keys.New(ctx)
	if err != nil {
		return encoded{}, keysError(err)
	}
	nonce := make([]byte, domain.NonceSize)
	if _, err = rand.Read(nonce); err == nil {
		js, err = domain.Seal(rest, payload, ref, key, nonce)
	}
	if err != nil {
		return encoded{}, errors.Join(err, s.keys.Destroy(ctx, key.ID))
	}
	return encoded{json: js, key: key.ID}, nil
}

// sealedAs makes the object with the payload of another as it is sealed there, if the two have the same; no JSON if not.
func (s *Store) sealedAs(rest, payload []byte, from *projections.Object) (encoded, error) {
	before, err := from.Typed()
	if err != nil {
		return encoded{}, err
	}
	js, err := domain.Encode(s.kind, before)
	if err != nil {
		return encoded{}, err
	}
	restBefore, payloadBefore := s.kind.Split(js)
	if !bytes.Equal(payload, payloadBefore) {
		return encoded{}, nil
	}
	if e, ok := domain.EnvelopeOf(from.JSON); ok {
		js, err := domain.WithEnvelope(rest, e)
		return encoded{json: js, erased: domain.Erased(before)}, err
	}
	if bytes.Equal(rest, restBefore) { // nothing has changed: what an old log holds in plain text is not written again
		return encoded{json: from.JSON}, nil
	}
	return encoded{}, nil
}

func unmark(typed runtime.Object) {
	m, err := meta.Accessor(typed)
	if err != nil || m.GetAnnotations() == nil {
		return
	}
	annotations := m.GetAnnotations()
	delete(annotations, domain.ErasedAnnotation)
	if len(annotations) == 0 {
		annotations = nil
	}
	m.SetAnnotations(annotations)
}

// settle says that a write has ended. A key whose event may yet turn up stays as it is: the next start sees whether it is in use.
func (s *Store) settle(enc encoded, err error) {
	switch {
	case enc.key == "":
	case err == nil:
		s.keys.Settle(enc.key)
	case apierrors.IsRequestEntityTooLargeError(err):
		s.unused(context.Background(), enc)
	}
}

// unused destroys the key of a write that did not come about.
func (s *Store) unused(ctx context.Context, enc encoded) {
	if enc.key == "" {
		return
	}
	if err := s.keys.Destroy(ctx, enc.key); err != nil {
		s.logger.Warn("a data key that sealed nothing is left until the next start", "error", err)
	}
}

// erased waits until the key of a deleted object has been destroyed, so that who deleted it knows that it is gone.
func (s *Store) erased(ctx context.Context, o *projections.Object, position uint64) error {
	if s.reaper == nil || !domain.IsSealed(o.JSON) {
		return nil
	}
	return s.reaper.wait(ctx, position)
}

// keysError turns the key store's errors into the API's words.
func keysError(err error) error {
	if errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrClosed) || errors.Is(err, keystore.ErrReadOnly) {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("nothing can be sealed now: %v", err))
	}
	return err
}
