package esdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

func expectation(e eventstore.Expected) (esdb.ExpectedRevision, error) {
	switch {
	case e == eventstore.Any:
		return esdb.Any{}, nil
	case e == eventstore.NoStream:
		return esdb.NoStream{}, nil
	case e == eventstore.StreamExists:
		return esdb.StreamExists{}, nil
	case e >= 0:
		return esdb.Revision(uint64(e)), nil
	default:
		return nil, fmt.Errorf("%d is no expected revision", e)
	}
}

// Append adds events to the end of a stream. While the server does not answer it is repeated with the same ids, which the
// server recognizes: always with an exact revision or NoStream, as long as the events are there; with Any and StreamExists while
// it remembers the ids or they stand at the stream's end. An append that ends with ErrUnavailable or with the context has an
// open outcome: make it again with the same ids.
func (l *Log) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	fail := func(err error) (eventstore.Appended, error) {
		return eventstore.Appended{}, fmt.Errorf("appending to %s: %w", stream, err)
	}
	want, err := expectation(expected)
	if err != nil {
		return fail(err)
	}
	data := make([]esdb.EventData, len(events))
	for i, e := range events {
		if size := len(e.Data) + len(e.Metadata) + len(e.Type); size > l.opts.MaxEventBytes {
			return fail(fmt.Errorf("%w: event %s (%s) has %d bytes, at most %d are taken", eventstore.ErrTooLarge, e.ID, e.Type, size, l.opts.MaxEventBytes))
		}
		contentType := esdb.ContentTypeJson
		if e.ContentType != "" && e.ContentType != "application/json" {
			contentType = esdb.ContentTypeBinary
		}
		data[i] = esdb.EventData{EventID: idOf(e), EventType: e.Type, ContentType: contentType, Data: e.Data, Metadata: e.Metadata}
	}
	result, err := do(ctx, l, func(ctx context.Context, c *connection, _ func()) (*esdb.WriteResult, error) {
		return c.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: want, Deadline: &l.opts.Timeout}, data...)
	})
	if err != nil {
		if conflict := l.conflict(ctx, stream, expected, err); conflict != nil {
			return eventstore.Appended{}, conflict
		}
		return fail(err)
	}
	return eventstore.Appended{Position: eventstore.Position(result.CommitPosition), Revision: result.NextExpectedVersion}, nil
}

// How the client, and the server where the client passes its words on, tell a conflict: in a text.
var (
	clientConflict = regexp.MustCompile(`wrong expected version: expecting '[^']*' but got '([^']*)'`)
	serverConflict = regexp.MustCompile(`WrongExpectedVersion.*Actual version: (-?\d+)`)
)

// conflict makes of a text the error that tells the actual revision, nil if it is no conflict. Where the text holds no
// revision, the stream is asked.
func (l *Log) conflict(ctx context.Context, stream string, expected eventstore.Expected, err error) error {
	text := err.Error()
	var known *esdb.Error
	isConflict := errors.As(err, &known) && known.Code() == esdb.ErrorCodeWrongExpectedVersion || strings.Contains(text, "WrongExpectedVersion")
	if !isConflict {
		return nil
	}
	for _, pattern := range []*regexp.Regexp{clientConflict, serverConflict} {
		found := pattern.FindStringSubmatch(text)
		if found == nil {
			continue
		}
		actual, err := strconv.ParseInt(found[1], 10, 64)
		if err != nil || actual < 0 {
			actual = int64(eventstore.NoStream) // "no_stream", or -1
		}
		return &eventstore.WrongExpectedRevisionError{Stream: stream, Expected: expected, Actual: eventstore.Expected(actual)}
	}
	actual := eventstore.NoStream
	for e, err := range l.ReadStream(ctx, stream, eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}) {
		if err != nil && !errors.Is(err, eventstore.ErrStreamNotFound) {
			return fmt.Errorf("appending to %s: it is not at revision %d, and asking for its revision failed: %w", stream, expected, err)
		}
		if err == nil {
			actual = eventstore.Exact(e.Revision)
		}
	}
	return &eventstore.WrongExpectedRevisionError{Stream: stream, Expected: expected, Actual: actual}
}

// SetMetadata replaces a stream's metadata.
func (l *Log) SetMetadata(ctx context.Context, stream string, expected eventstore.Expected, m eventstore.Metadata) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the metadata of %s: %w", stream, err)
	}
	_, err = l.Append(ctx, eventstore.MetadataStream(stream), expected, eventstore.Proposed{Type: eventstore.MetadataType, Data: data})
	return err
}

// Metadata returns a stream's metadata and its revision.
func (l *Log) Metadata(ctx context.Context, stream string) (eventstore.Metadata, eventstore.Expected, error) {
	return eventstore.ReadMetadata(ctx, l, stream)
}

// Delete soft-deletes a stream.
func (l *Log) Delete(ctx context.Context, stream string, expected eventstore.Expected) error {
	repeated, err := l.remove(ctx, stream, expected, func(ctx context.Context, c *connection, want esdb.ExpectedRevision) error {
		_, err := c.DeleteStream(ctx, stream, esdb.DeleteStreamOptions{ExpectedRevision: want, Deadline: &l.opts.Timeout})
		return err
	})
	var conflict *eventstore.WrongExpectedRevisionError
	if repeated && expected == eventstore.StreamExists && errors.As(err, &conflict) && conflict.Actual == eventstore.NoStream {
		return nil // the first time, whose answer was lost
	}
	return err
}

// Tombstone deletes a stream for good.
func (l *Log) Tombstone(ctx context.Context, stream string, expected eventstore.Expected) error {
	repeated, err := l.remove(ctx, stream, expected, func(ctx context.Context, c *connection, want esdb.ExpectedRevision) error {
		_, err := c.TombstoneStream(ctx, stream, esdb.TombstoneStreamOptions{ExpectedRevision: want, Deadline: &l.opts.Timeout})
		return err
	})
	if repeated && errors.Is(err, eventstore.ErrStreamDeleted) {
		return nil // the first time, whose answer was lost
	}
	return err
}

// remove says whether it was tried more than once.
func (l *Log) remove(
	ctx context.Context, stream string, expected eventstore.Expected,
	remove func(context.Context, *connection, esdb.ExpectedRevision) error,
) (repeated bool, err error) {
	want, err := expectation(expected)
	if err != nil {
		return false, fmt.Errorf("deleting %s: %w", stream, err)
	}
	var tries atomic.Int32
	_, err = do(ctx, l, func(ctx context.Context, c *connection, _ func()) (struct{}, error) {
		tries.Add(1)
		return struct{}{}, remove(ctx, c, want)
	})
	repeated = tries.Load() > 1
	if err == nil {
		return repeated, nil
	}
	if conflict := l.conflict(ctx, stream, expected, err); conflict != nil {
		return repeated, conflict
	}
	return repeated, fmt.Errorf("deleting %s: %w", stream, err)
}

// idOf gives an event that has no id one, so that repeating the append repeats the id.
func idOf(e eventstore.Proposed) uuid.UUID {
	if e.ID == uuid.Nil {
		return uuid.New()
	}
	return e.ID
}
