// Package seal signs a log at intervals and checks the signatures. Who has written to the disk behind the log's back can make its whole
// hash chain anew; without the key he cannot make the signed checkpoints anew, and without them the log contradicts what was signed.
//
// A log that is Chained is signed by its own digest. For any other, such as EventStoreDB, the notary follows the log and keeps a
// chain of its own, over all streams but those that the server may shorten.
package seal

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

const (
	// Stream holds the checkpoints.
	Stream = "$shiplog-checkpoints"
	// Type is that of a checkpoint's event.
	Type = "LogSealed"

	version = 1
	// domainTag keeps a signature of a checkpoint from being taken for one of anything else.
	domainTag = "shiplog checkpoint\n"
)

// Checkpoint says what the log was up to a position.
type Checkpoint struct {
	Version  int                 `json:"version"`
	Number   uint64              `json:"number"` // 1, 2, 3, without gaps
	Position eventstore.Position `json:"position"`
	Date     time.Time           `json:"date"`
	Digest   eventstore.Digest   `json:"digest"`
	// Followed says that the digest is that of the notary's own chain, which leaves out the streams whose names begin so.
	Followed  bool     `json:"followed,omitempty"`
	LeavesOut []string `json:"leavesOut,omitempty"`
	KeyID     string   `json:"keyID"`
	Signature []byte   `json:"signature,omitempty"`
}

// signed is what the signature is over.
func (c *Checkpoint) signed() ([]byte, error) {
	unsigned := *c
	unsigned.Signature = nil
	data, err := json.Marshal(unsigned)
	if err != nil {
		return nil, fmt.Errorf("writing a checkpoint: %w", err)
	}
	return append([]byte(domainTag), data...), nil
}

func (c *Checkpoint) sign(key *Key) error {
	c.KeyID = KeyID(key.Public())
	message, err := c.signed()
	if err != nil {
		return err
	}
	c.Signature = ed25519.Sign(key.private, message)
	return nil
}

// SignedWith says whether the checkpoint bears a signature that was made with the key.
func (c *Checkpoint) SignedWith(key ed25519.PublicKey) bool {
	message, err := c.signed()
	return err == nil && c.KeyID == KeyID(key) && ed25519.Verify(key, message, c.Signature)
}

func (c *Checkpoint) proposed() (eventstore.Proposed, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return eventstore.Proposed{}, fmt.Errorf("writing a checkpoint: %w", err)
	}
	return eventstore.Proposed{ID: uuid.New(), Type: Type, Data: data}, nil
}

var errNoCheckpoint = errors.New("it is no checkpoint")

func parse(e *eventstore.Recorded) (c Checkpoint, err error) {
	if e.Type != Type {
		return c, errNoCheckpoint
	}
	if err := json.Unmarshal(e.Data, &c); err != nil {
		return c, fmt.Errorf("reading checkpoint: %w", err)
	}
	if c.Version > version {
		return c, fmt.Errorf("%w: the checkpoint at position %d has version %d, this build reads up to %d: use a newer build",
			eventstore.ErrVersion, e.Position, c.Version, version)
	}
	return c, nil
}

// Last returns the last checkpoint of a log and its revision; NoStream when there is none.
func Last(ctx context.Context, log eventstore.Log) (Checkpoint, eventstore.Expected, error) {
	last := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}
	for e, err := range log.ReadStream(ctx, Stream, last) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			break
		}
		if err != nil {
			return Checkpoint{}, 0, fmt.Errorf("reading the last checkpoint: %w", err)
		}
		c, err := parse(&e)
		return c, eventstore.Exact(e.Revision), err
	}
	return Checkpoint{}, eventstore.NoStream, nil
}
