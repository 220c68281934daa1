package seal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Expected is what somebody has kept elsewhere of a log.
type Expected struct {
	Position eventstore.Position
	Digest   eventstore.Digest
}

// ParseExpected reads POSITION:DIGEST.
func ParseExpected(s string) (Expected, error) {
	var e Expected
	position, digest, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(position, 10, 63)
	if err == nil && ok {
		err = e.Digest.UnmarshalText([]byte(digest))
	}
	if err != nil || !ok {
		return e, fmt.Errorf("%q is not what an earlier verification printed: give POSITION:DIGEST", s)
	}
	e.Position = eventstore.Position(n)
	return e, nil
}

func (e Expected) String() string { return fmt.Sprintf("%d:%s", e.Position, e.Digest) }

// Question is what to check a log against.
type Question struct {
	// Key is what checkpoints must be signed with; nil: the signatures are not checked, only that the log is what they say.
	Key ed25519.PublicKey
	// MustBeSigned makes a log without any checkpoint a fault.
	MustBeSigned bool
	Expected     []Expected
	// LeavesOut is as in Options, for a log that keeps no chain itself.
	LeavesOut []string
	// Progress, unless nil, is told from time to time how far it got.
	Progress func(done, head eventstore.Position)
}

// Answer is what was found.
type Answer struct {
	Checkpoints int                 `json:"checkpoints"`
	SignedTo    eventstore.Position `json:"signedTo"` // by a checkpoint with a good signature that the log agrees with
	SignedAt    time.Time           `json:"signedAt,omitzero"`
	Head        eventstore.Position `json:"head"`
	Digest      eventstore.Digest   `json:"digest"` // at the head, to be kept elsewhere
}

// Verify holds a log against its checkpoints and against what somebody has kept of it, and returns what is wrong. Of a log that keeps a
// chain it takes the digests that it has stored: that they are right is for the log's own check to say. Another log is read as a whole.
func Verify(ctx context.Context, log eventstore.Log, q Question) (Answer, []eventstore.Fault, error) {
	v := verification{q: q, log: log}
	head, err := log.Head(ctx)
	if err != nil {
		return v.answer, nil, err
	}
	v.answer.Head = head
	if err := v.readCheckpoints(ctx); err != nil {
		return v.answer, nil, err
	}
	if chained, ok := log.(eventstore.Chained); ok {
		err = v.askLog(ctx, chained)
	} else {
		err = v.follow(ctx)
	}
	if err != nil {
		return v.answer, nil, err
	}
	v.compare()
	return v.answer, v.faults, nil
}

type verification struct {
	q           Question
	log         eventstore.Log
	checkpoints []kept
	expected    []kept
	answer      Answer
	faults      []eventstore.Fault
}

// kept is what is to be compared with the log.
type kept struct {
	Checkpoint
	event  eventstore.Recorded // of a checkpoint
	actual eventstore.Digest
	beyond bool // the log ends before it
	asked  bool // actual or beyond is known: EventStoreDB knows nothing of a chain that the log had elsewhere
	good   bool // its signature
}

func (v *verification) fault(kind eventstore.FaultKind, e *eventstore.Recorded, format string, args ...any) {
	f := eventstore.Fault{Kind: kind, Detail: fmt.Sprintf(format, args...)}
	if e != nil {
		f.Position, f.Stream, f.Revision = e.Position, e.Stream, e.Revision
	}
	if len(v.faults) < maxFaults {
		v.faults = append(v.faults, f)
	}
}

const maxFaults = 100

func (v *verification) readCheckpoints(ctx context.Context) error {
	number := uint64(0)
	for e, err := range v.log.ReadStream(ctx, Stream, eventstore.ReadStream{}) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the checkpoints: %w", err)
		}
		c, err := parse(&e)
		if errors.Is(err, eventstore.ErrVersion) {
			return err
		}
		if err != nil {
			v.fault(eventstore.BadSignature, &e, "it is no checkpoint")
			continue
		}
		v.answer.Checkpoints++
		if c.Number != number+1 {
			v.fault(eventstore.Missing, &e, "checkpoint %d follows checkpoint %d", c.Number, number)
		}
		number = c.Number
		k := kept{Checkpoint: c, event: e, good: v.q.Key != nil && c.SignedWith(v.q.Key)}
		if v.q.Key != nil && !k.good {
			v.fault(eventstore.BadSignature, &e, "checkpoint %d was not signed with the key %s (it names the key %s)", c.Number, KeyID(v.q.Key), c.KeyID)
			continue
		}
		v.checkpoints = append(v.checkpoints, k)
	}
	if v.answer.Checkpoints == 0 && v.q.MustBeSigned && v.answer.Head > 0 {
		v.fault(eventstore.Unsigned, nil, "the log has no signed checkpoint")
	}
	_, chained := v.log.(eventstore.Chained)
	for _, e := range v.q.Expected {
		k := kept{Checkpoint: Checkpoint{Position: e.Position, Digest: e.Digest}}
		if !chained {
			k.Followed, k.LeavesOut = true, newFollower(v.q.LeavesOut).leavesOut
		}
		v.expected = append(v.expected, k)
	}
	return nil
}

// askLog takes the log's own digests.
func (v *verification) askLog(ctx context.Context, log eventstore.Chained) (err error) {
	for _, list := range [][]kept{v.checkpoints, v.expected} {
		for i := range list {
			k := &list[i]
			if k.Followed {
				continue // below
			}
			k.asked = true
			if k.beyond = k.Position > v.answer.Head; k.beyond {
				continue
			}
			if k.actual, err = log.DigestAt(ctx, k.Position); err != nil {
				return err
			}
		}
	}
	if v.answer.Digest, err = log.DigestAt(ctx, v.answer.Head); err != nil {
		return err
	}
	// A log that came from elsewhere may bring checkpoints of a chain that was followed there.
	if slices.ContainsFunc(v.checkpoints, func(k kept) bool { return k.Followed }) {
		digest := v.answer.Digest
		err = v.follow(ctx)
		v.answer.Digest = digest
	}
	return err
}

// follow reads the log and keeps the chains that the checkpoints speak of.
func (v *verification) follow(ctx context.Context) error {
	var todo []*kept
	for _, list := range [][]kept{v.checkpoints, v.expected} {
		for i := range list {
			if list[i].Followed {
				todo = append(todo, &list[i])
			}
		}
	}
	slices.SortStableFunc(todo, func(a, b *kept) int { return int(int64(a.Position) - int64(b.Position)) })
	own := newFollower(v.q.LeavesOut)
	chains := map[string]*follower{strings.Join(own.leavesOut, "\n"): own}
	for _, k := range todo {
		name := strings.Join(k.LeavesOut, "\n")
		if chains[name] == nil {
			chains[name] = &follower{leavesOut: k.LeavesOut}
		}
	}
	settle := func(before eventstore.Position) {
		for len(todo) > 0 && todo[0].Position < before {
			todo[0].actual, todo[0].asked = chains[strings.Join(todo[0].LeavesOut, "\n")].digest, true
			todo = todo[1:]
		}
	}
	n := 0
	for e, err := range v.log.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			return err
		}
		settle(e.Position)
		for _, c := range chains {
			c.add(&e)
		}
		v.answer.Head = max(v.answer.Head, e.Position)
		if n++; n%4096 == 0 && v.q.Progress != nil {
			v.q.Progress(e.Position, v.answer.Head)
		}
	}
	settle(v.answer.Head + 1)
	for _, k := range todo {
		k.beyond, k.asked = true, true
	}
	v.answer.Digest = own.digest
	return nil
}

// compare tells where the log is not what it was.
func (v *verification) compare() {
	var agreed eventstore.Position
	contradicted := 0
	for i := range v.checkpoints {
		k := &v.checkpoints[i]
		switch {
		case !k.asked:
		case !k.beyond && k.actual == k.Digest:
			agreed = k.Position
			if k.good {
				v.answer.SignedTo, v.answer.SignedAt = k.Position, k.Date
			}
		case contradicted == 0 && k.beyond:
			contradicted++
			v.fault(eventstore.Missing, &k.event, "checkpoint %d speaks of position %d, and the log ends at %d", k.Number, k.Position, v.answer.Head)
		case contradicted == 0:
			contradicted++
			v.fault(eventstore.Contradicted, &k.event,
				"checkpoint %d of %s says that the log had the digest %s at position %d, and it has %s: something between the positions %d and %d was changed, and the hash chain made anew",
				k.Number, k.Date.Format(time.RFC3339), k.Digest, k.Position, k.actual, agreed, k.Position)
		default:
			contradicted++
		}
	}
	if contradicted > 1 {
		v.fault(eventstore.Contradicted, nil, "%d more checkpoints disagree with the log", contradicted-1)
	}
	for i := range v.expected {
		switch k := &v.expected[i]; {
		case k.beyond:
			v.fault(eventstore.Missing, nil, "position %d was expected, and the log ends at %d", k.Position, v.answer.Head)
		case k.actual != k.Digest:
			v.fault(eventstore.Contradicted, nil, "the digest %s was expected at position %d, and it is %s: something up to there was changed, and the hash chain made anew",
				k.Digest, k.Position, k.actual)
		}
	}
}
