package embedded

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/shiplog/shiplog/eventstore"
)

// SetMetadata replaces a stream's metadata.
func (l *Log) SetMetadata(ctx context.Context, name string, expected eventstore.Expected, m eventstore.Metadata) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the metadata of %s: %w", name, err)
	}
	_, err = l.Append(ctx, eventstore.MetadataStream(name), expected, eventstore.Proposed{Type: eventstore.MetadataType, Data: data})
	return err
}

// Metadata returns a stream's metadata and its revision.
func (l *Log) Metadata(ctx context.Context, name string) (eventstore.Metadata, eventstore.Expected, error) {
	return eventstore.ReadMetadata(ctx, l, name)
}

// Delete soft-deletes a stream.
func (l *Log) Delete(ctx context.Context, name string, expected eventstore.Expected) error {
	return l.delete(ctx, opDelete, name, expected)
}

// Tombstone deletes a stream for good.
func (l *Log) Tombstone(ctx context.Context, name string, expected eventstore.Expected) error {
	return l.delete(ctx, opTombstone, name, expected)
}

func (l *Log) delete(ctx context.Context, op operation, name string, expected eventstore.Expected) error {
	if _, isMeta := eventstore.MetadataOf(name); isMeta {
		return fmt.Errorf("deleting %s: a metadata stream cannot be deleted", name)
	}
	if _, err := l.submit(ctx, &request{op: op, stream: name, expected: expected}); err != nil {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}
