package nodefeed

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/domain"
)

// ErrBadItem says that data is no item of a feed.
var ErrBadItem = errors.New("not an item of a node's feed")

// line is an item on the wire and in files: one JSON value without line breaks.
type line struct {
	Item
	Object json.RawMessage `json:"object,omitempty"`
}

// MarshalItem writes an item as one line of JSON, without the line break.
func MarshalItem(item Item) ([]byte, error) {
	l := line{Item: item}
	if item.Object != nil {
		object, err := json.Marshal(item.Object)
		if err != nil {
			return nil, fmt.Errorf("encoding %s for a node: %w", item.Ref, err)
		}
		l.Object = object
	}
	data, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding an item for a node: %w", err)
	}
	return data, nil
}

// UnmarshalItem reads what MarshalItem wrote. The set says of which Go type the object is. Errors are ErrBadItem.
func UnmarshalItem(kinds *domain.Set, data []byte) (Item, error) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return Item{}, fmt.Errorf("%w: %w", ErrBadItem, err)
	}
	switch l.Op {
	case Put:
		k, ok := kinds.ByResource(l.Ref.GroupResource())
		if !ok {
			return Item{}, fmt.Errorf("%w: %s is of no known kind", ErrBadItem, l.Ref)
		}
		object := k.New()
		if err := json.Unmarshal(l.Object, object); err != nil {
			return Item{}, fmt.Errorf("%w: %s: %w", ErrBadItem, l.Ref, err)
		}
		l.Item.Object = object
	case Delete, Reset, Synced:
	default:
		return Item{}, fmt.Errorf("%w: op %q", ErrBadItem, l.Op)
	}
	return l.Item, nil
}
