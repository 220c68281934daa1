package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Names that EventStoreDB gives to what it keeps about streams. A stream's metadata is the last "$metadata" event of the
// stream "$$<stream>", so that readers of the protocol find it where they look for it.
const (
	MetadataStreamPrefix = "$$"
	MetadataType         = "$metadata"
	TombstoneType        = "$streamDeleted"
)

// DeletedTruncateBefore is the TruncateBefore of a stream that was soft-deleted and has not been appended to since.
const DeletedTruncateBefore = math.MaxInt64

// TombstoneRevision is the revision of the event that ends a tombstoned stream.
const TombstoneRevision = math.MaxInt64

// MetadataStream names the stream in which a stream's metadata is kept.
func MetadataStream(stream string) string { return MetadataStreamPrefix + stream }

// MetadataOf returns the name of the stream whose metadata a stream holds, and false when it is no metadata stream.
func MetadataOf(stream string) (string, bool) { return strings.CutPrefix(stream, MetadataStreamPrefix) }

const (
	keyMaxCount       = "$maxCount"
	keyMaxAge         = "$maxAge" // seconds
	keyTruncateBefore = "$tb"
)

// MarshalJSON writes the metadata as EventStoreDB does: $maxCount, $maxAge in seconds (rounded up), $tb, and the custom
// entries beside them.
func (m Metadata) MarshalJSON() ([]byte, error) {
	out := make(map[string]any, len(m.Custom)+3)
	for k, v := range m.Custom {
		switch k {
		case keyMaxCount, keyMaxAge, keyTruncateBefore:
			return nil, fmt.Errorf("custom metadata may not be named %s", k)
		}
		out[k] = v
	}
	if m.MaxCount > 0 {
		out[keyMaxCount] = m.MaxCount
	}
	if m.MaxAge > 0 {
		out[keyMaxAge] = int64((m.MaxAge + time.Second - 1) / time.Second)
	}
	if m.TruncateBefore > 0 {
		out[keyTruncateBefore] = m.TruncateBefore
	}
	return json.Marshal(out)
}

// UnmarshalJSON is the inverse of MarshalJSON. Everything that is not retention ends up in Custom, numbers as float64.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("reading stream metadata: %w", err)
	}
	*m = Metadata{}
	for k, v := range raw {
		var err error
		switch k {
		case keyMaxCount:
			err = json.Unmarshal(v, &m.MaxCount)
		case keyTruncateBefore:
			err = json.Unmarshal(v, &m.TruncateBefore)
		case keyMaxAge:
			var seconds int64
			if err = json.Unmarshal(v, &seconds); err == nil && (seconds < 0 || seconds > math.MaxInt64/int64(time.Second)) {
				err = fmt.Errorf("%d seconds are out of range", seconds)
			}
			m.MaxAge = time.Duration(seconds) * time.Second
		default:
			var custom any
			err = json.Unmarshal(v, &custom)
			if m.Custom == nil {
				m.Custom = make(map[string]any)
			}
			m.Custom[k] = custom
		}
		if err != nil {
			return fmt.Errorf("reading stream metadata: %s: %w", k, err)
		}
	}
	return nil
}

// ReadMetadata reads a stream's metadata where EventStoreDB keeps it. It returns the zero Metadata and NoStream if none was
// set, and the zero Metadata with its revision if what was set does not parse.
func ReadMetadata(ctx context.Context, log Log, stream string) (Metadata, Expected, error) {
	last := ReadStream{Direction: Backwards, FromEnd: true, Limit: 1}
	for e, err := range log.ReadStream(ctx, MetadataStream(stream), last) {
		if errors.Is(err, ErrStreamNotFound) {
			break
		}
		if err != nil {
			return Metadata{}, 0, fmt.Errorf("reading the metadata of %s: %w", stream, err)
		}
		var m Metadata
		if err := json.Unmarshal(e.Data, &m); err != nil || e.Type != MetadataType {
			m = Metadata{}
		}
		return m, Exact(e.Revision), nil
	}
	return Metadata{}, NoStream, nil
}
