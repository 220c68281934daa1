package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// identityStream holds one event that tells logs apart. It is no object's stream.
const identityStream = "shiplog-identity"

// LogIdentity returns what tells this log from every other, so that read models are never mixed up with those of another
// cluster. A log that has none yet is given one; a log that takes no writes and has none gives ErrReadOnly.
func LogIdentity(ctx context.Context, log eventstore.Log) (string, error) {
	for {
		id, err := readIdentity(ctx, log)
		if err == nil || !errors.Is(err, eventstore.ErrStreamNotFound) {
			return id, err
		}
		id = uuid.NewString()
		data, err := json.Marshal(map[string]string{"log": id})
		if err != nil {
			return "", fmt.Errorf("giving the log an identity: %w", err)
		}
		_, err = log.Append(ctx, identityStream, eventstore.NoStream, eventstore.Proposed{ID: uuid.New(), Type: "LogIdentified", Data: data})
		switch {
		case err == nil:
			return id, nil
		case !errors.Is(err, eventstore.ErrWrongExpectedRevision): // else somebody was faster
			return "", fmt.Errorf("giving the log an identity: %w", err)
		}
	}
}

func readIdentity(ctx context.Context, log eventstore.Log) (string, error) {
	for r, err := range log.ReadStream(ctx, identityStream, eventstore.ReadStream{Limit: 1}) {
		if err != nil {
			return "", fmt.Errorf("reading the log's identity: %w", err)
		}
		var d struct {
			Log string `json:"log"`
		}
		if err := json.Unmarshal(r.Data, &d); err != nil || d.Log == "" {
			return "", fmt.Errorf("reading the log's identity: %w: %q", eventstore.ErrCorrupt, r.Data)
		}
		return d.Log, nil
	}
	return "", fmt.Errorf("reading the log's identity: %w", eventstore.ErrStreamNotFound)
}
