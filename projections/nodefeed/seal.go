package nodefeed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/keystore"
)

// sealing seals what kinds want sealed in one file, by one key of the node's own. The next file has another, and this one's is destroyed: what a node
// no longer needs is not to be had from its disk.
type sealing struct {
	kinds *domain.Set
	keys  keystore.Store
	key   domain.DataKey // of the file being written; zero until something has to be sealed
}

// marshal is MarshalItem with what is secret of the object sealed.
func (s *sealing) marshal(item Item) ([]byte, error) {
	k, ok := s.kinds.ByResource(item.Ref.GroupResource())
	if s.keys == nil || !ok || len(k.Sealed) == 0 || item.Object == nil {
		return MarshalItem(item)
	}
	object, err := s.seal(k, item)
	if err != nil {
		return nil, fmt.Errorf("sealing %s in the node's copy: %w", item.Ref, err)
	}
	data, err := json.Marshal(line{Item: item, Object: object})
	if err != nil {
		return nil, fmt.Errorf("encoding an item for a node: %w", err)
	}
	return data, nil
}

func (s *sealing) seal(k *domain.Kind, item Item) ([]byte, error) {
	raw, err := json.Marshal(item.Object)
	if err != nil {
		return nil, err
	}
	document, err := domain.Canonical(raw)
	if err != nil {
		return nil, err
	}
	rest, payload := k.Split(document)
	if payload == nil {
		return document, nil
	}
	if s.key.ID == "" {
		if s.key, err = s.keys.New(context.Background()); err != nil {
			return nil, err
		}
	}
	nonce := make([]byte, domain.NonceSize) // one key for a file of a few objects: the nonces tell them apart
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return domain.Seal(rest, payload, bare(item.Ref), s.key, nonce)
}

// unmarshal is the inverse of marshal. An object whose payload cannot be opened makes the file useless: the feed brings it again.
func (s *sealing) unmarshal(data []byte) (Item, string, error) {
	item, err := UnmarshalItem(s.kinds, data)
	if err != nil || item.Op != Put {
		return item, "", err
	}
	var l struct {
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return Item{}, "", fmt.Errorf("%w: %w", ErrBadItem, err)
	}
	e, ok := domain.EnvelopeOf(l.Object)
	if !ok {
		return item, "", nil
	}
	document, err := domain.Open(l.Object, bare(item.Ref), s.keys)
	if err != nil {
		return Item{}, "", fmt.Errorf("%w: %s: %w", ErrBadItem, item.Ref, err)
	}
	if err := json.Unmarshal(document, item.Object); err != nil {
		return Item{}, "", fmt.Errorf("%w: %s: %w", ErrBadItem, item.Ref, err)
	}
	return item, e.KeyID, nil
}

// keep destroys every key but that of the file that is there now.
func (s *sealing) keep(id string) error {
	if s.keys == nil {
		return nil
	}
	s.keys.Settle(id)
	_, err := s.keys.Sweep(context.Background(), func() (map[string]bool, error) { return map[string]bool{id: true}, nil })
	return err
}
