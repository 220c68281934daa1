package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/internal/torture"
)

// mortalDisk is a disk whose power fails at a given call that changes something: what was not synced by then survives in part. For
// those who use it life goes on, but nothing that they do from then on reaches the clone.
type mortalDisk struct {
	disk   *vfs.MemFS
	left   atomic.Int64 // calls until power fails
	random *rand.Rand   // of what survives
	before func()       // is called at the moment of the failure, ahead of it

	mu      sync.Mutex
	removed map[string][]string // names removed from a directory since it was synced
	clone   *vfs.MemFS
}

func (d *mortalDisk) String() string { return "mortal" }

func (d *mortalDisk) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpLock {
		return nil
	}
	d.mu.Lock()
	switch op.Kind {
	case errorfs.OpRemove:
		dir := d.disk.PathDir(op.Path)
		if d.removed == nil {
			d.removed = make(map[string][]string)
		}
		d.removed[dir] = append(d.removed[dir], op.Path)
	case errorfs.OpFileSync:
		delete(d.removed, op.Path)
	}
	d.mu.Unlock()
	if d.left.Add(-1) == 0 {
		d.fail()
	}
	return nil
}

// fail lets power fail now, unless it has failed.
func (d *mortalDisk) fail() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clone == nil {
		d.before()
		// Mostly all or nothing of what is not synced, now and then any part of it.
		percent := []int{0, 100, d.random.IntN(101)}[d.random.IntN(3)]
		d.clone = d.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: d.random})
		// The clone has all files whose removal was not synced. Any of them may be gone as well.
		for _, dir := range slices.Sorted(maps.Keys(d.removed)) {
			for _, name := range d.removed[dir] {
				if d.random.IntN(100) < percent {
					_ = d.clone.Remove(name) // it may not be there
				}
			}
		}
	}
}

func (d *mortalDisk) failed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clone != nil
}

// track is what is known of a stream to which one writer writes: what it has come to, and what was asked for without an answer.
type track struct {
	name    string
	state   torture.Stream
	pending *torture.Op
	acks    []ack
}

type ack struct {
	id       uuid.UUID
	position eventstore.Position
}

// voyage is one seeded life of a log, from port to port over several failures of the power.
type voyage struct {
	seed   uint64
	random *rand.Rand
	opts   embedded.Options
	disk   *vfs.MemFS
	// tolerated is the kind of error that the log may return, nil while there is none.
	tolerated error

	mu      sync.Mutex
	tracks  []track
	seen    map[uuid.UUID]eventstore.Position // by readers and subscribers
	head    eventstore.Position               // the highest that anybody was told
	links   []link                            // of the chain, as somebody was told
	crashed snapshotOfVoyage
}

// link is the digest at a position.
type link struct {
	position eventstore.Position
	digest   eventstore.Digest
}

// snapshotOfVoyage is what was known when power failed. What is learned afterwards may be lost.
type snapshotOfVoyage struct {
	tracks []track
	seen   map[uuid.UUID]eventstore.Position
	head   eventstore.Position
	links  []link
}

func newVoyage(seed uint64) *voyage {
	v := &voyage{seed: seed, random: rand.New(rand.NewPCG(seed, 0x70c)), disk: vfs.NewCrashableMem(), seen: make(map[uuid.UUID]eventstore.Position)}
	v.opts = embedded.Options{
		Logger: quiet(), ScavengeEvery: -1, TailEvents: []int{1, 16, 1000}[v.random.IntN(3)], CachedStreams: []int{1, 1000}[v.random.IntN(2)],
		MemTableBytes: []uint64{16 << 10, 64 << 10, 1 << 20}[v.random.IntN(3)],
	}
	for i := range 1 + v.random.IntN(4) {
		v.tracks = append(v.tracks, track{name: fmt.Sprintf("s-%d", i), state: torture.NewStream()})
	}
	return v
}

// id makes an id that depends on the seed only.
func id(random *rand.Rand) uuid.UUID {
	var out uuid.UUID
	for i := range out {
		out[i] = byte(random.Uint32())
	}
	return out
}

// sail runs the log until power fails, and leaves the voyage with the disk as it is after that.
func (v *voyage) sail(ctx context.Context, crashAfter int64) error {
	disk := &mortalDisk{disk: v.disk, random: rand.New(rand.NewPCG(v.random.Uint64(), 1)), before: v.remember}
	disk.left.Store(crashAfter)
	opts := v.opts
	opts.FS = errorfs.Wrap(v.disk, disk)
	log, err := embedded.Open("log", opts)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	err = v.crew(ctx, log, disk)
	if v.random.IntN(4) > 0 {
		disk.fail()
	} // else while it closes
	if cerr := log.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing: %w", cerr))
	}
	disk.fail()
	v.disk, v.tracks, v.seen, v.head, v.links = disk.clone, v.crashed.tracks, v.crashed.seen, v.crashed.head, v.crashed.links
	return err
}

// remember is called when power fails. Nobody holds v.mu while the log works for him.
func (v *voyage) remember() {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := make(map[uuid.UUID]eventstore.Position, len(v.seen))
	for id, position := range v.seen {
		seen[id] = position
	}
	v.crashed = snapshotOfVoyage{tracks: append([]track(nil), v.tracks...), seen: seen, head: v.head, links: v.links[:len(v.links):len(v.links)]}
}

// crew has a writer a stream, a subscriber, and somebody who scavenges, verifies and reads.
func (v *voyage) crew(ctx context.Context, log *embedded.Log, disk *mortalDisk) error {
	watching, stop := context.WithCancel(ctx)
	sub, err := log.Subscribe(watching, eventstore.Subscribe{Filter: eventstore.Filter{System: true}})
	if err != nil {
		stop()
		return err
	}
	var watcher, writers sync.WaitGroup
	watcher.Go(func() {
		for {
			b, err := sub.Next(watching)
			if err != nil {
				return
			}
			v.mu.Lock()
			for i := range b.Events {
				v.seen[b.Events[i].ID] = b.Events[i].Position
			}
			v.head = max(v.head, b.Checkpoint)
			v.mu.Unlock()
		}
	})
	failures := make([]error, len(v.tracks)+1)
	operations := 3 + v.random.IntN(25)
	for i := range v.tracks {
		random := rand.New(rand.NewPCG(v.random.Uint64(), uint64(i)))
		writers.Go(func() {
			for range operations {
				if disk.failed() {
					return
				}
				if failures[i] = v.write(ctx, log, i, random); failures[i] != nil {
					return
				}
			}
		})
	}
	steward := rand.New(rand.NewPCG(v.random.Uint64(), 99))
	writers.Go(func() {
		for range operations / 3 {
			if disk.failed() {
				return
			}
			if _, err := log.Scavenge(ctx); err != nil {
				failures[len(v.tracks)] = fmt.Errorf("scavenging: %w", err)
				return
			}
			if steward.IntN(8) == 0 {
				if _, err := log.Verify(ctx, nil); err != nil {
					failures[len(v.tracks)] = fmt.Errorf("verifying: %w", err)
					return
				}
			}
			head, err := log.Head(ctx)
			if err != nil {
				failures[len(v.tracks)] = err
				return
			}
			digest, err := log.DigestAt(ctx, head)
			if err != nil {
				failures[len(v.tracks)] = fmt.Errorf("reading the chain: %w", err)
				return
			}
			v.mu.Lock()
			v.head, v.links = max(v.head, head), append(v.links, link{head, digest})
			v.mu.Unlock()
		}
	})
	writers.Wait()
	stop()
	watcher.Wait()
	for i, err := range failures {
		if v.tolerated != nil && errors.Is(err, v.tolerated) {
			failures[i] = nil
		}
	}
	return errors.Join(failures...)
}

// fork returns the voyage as it would go on with another disk.
func (v *voyage) fork(disk *vfs.MemFS) *voyage {
	v.remember()
	return &voyage{
		seed: v.seed, random: rand.New(rand.NewPCG(v.seed, 0xf02c)), opts: v.opts, disk: disk, tolerated: v.tolerated,
		tracks: v.crashed.tracks, seen: v.crashed.seen, head: v.crashed.head, links: v.crashed.links,
	}
}

// wish draws what a writer asks for next.
func wish(random *rand.Rand, stream string, s torture.Stream) torture.Op {
	op := torture.Op{Kind: torture.Append, Stream: stream, Expected: eventstore.Any}
	switch random.IntN(20) {
	case 0:
		op.Kind = torture.Delete
	case 1:
		if random.IntN(4) == 0 {
			op.Kind = torture.Tombstone
		}
	case 2, 3:
		op.Kind = torture.SetMetadata
		op.Keep = torture.Retention{MaxCount: random.Uint64N(6)}
		if random.IntN(2) == 0 {
			op.Keep.TruncateBefore = random.Uint64N(uint64(max(s.Last, 0)) + 2)
		}
		return op
	}
	switch random.IntN(4) {
	case 0:
	case 1:
		op.Expected = eventstore.NoStream
	default:
		if op.Expected = eventstore.Expected(s.Last); s.Last < 0 || s.Last == eventstore.TombstoneRevision {
			op.Expected = eventstore.NoStream
		}
	}
	if op.Kind != torture.Append {
		return op
	}
	for range 1 + random.IntN(4) {
		op.IDs = append(op.IDs, id(random))
	}
	op.Bytes = random.IntN(40)
	if random.IntN(6) == 0 {
		op.Bytes = random.IntN(9000)
	}
	return op
}

func (v *voyage) write(ctx context.Context, log *embedded.Log, i int, random *rand.Rand) error {
	v.mu.Lock()
	state := v.tracks[i].state
	op := wish(random, v.tracks[i].name, state)
	v.tracks[i].pending = &op
	v.mu.Unlock()
	result := torture.Do(ctx, log, op)
	if result.Outcome == torture.Unknown {
		return fmt.Errorf("%s: %w", op, result.Err) // it stays pending
	}
	if err := state.Allows(op, result); err != nil {
		return err
	}
	v.acknowledge(i, op, result)
	return nil
}

func (v *voyage) acknowledge(i int, op torture.Op, result torture.Result) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := &v.tracks[i]
	t.state, _ = t.state.Write(op)
	t.pending = nil
	if n := len(op.IDs); n > 0 && result.Outcome == torture.Done {
		acks := t.acks[:len(t.acks):len(t.acks)] // a copy is with remember
		for back := range op.IDs {
			acks = append(acks, ack{id: op.IDs[n-1-back], position: result.Position - eventstore.Position(back)})
		}
		t.acks, v.head = acks, max(v.head, result.Position)
	}
}

// arrive opens the log after a failure and holds it against what was known then; it makes the appends again that had no answer.
func (v *voyage) arrive(ctx context.Context) error {
	opts := v.opts
	opts.FS = v.disk
	log, err := embedded.Open("log", opts)
	if err != nil {
		return fmt.Errorf("opening after power failed: %w", err)
	}
	err = v.inspect(ctx, log)
	if cerr := log.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing: %w", cerr))
	}
	return err
}

func (v *voyage) inspect(ctx context.Context, log *embedded.Log) error {
	if _, err := log.Verify(ctx, nil); err != nil {
		return err
	}
	if head, err := log.Head(ctx); err != nil || head < v.head {
		return fmt.Errorf("the head is %d (%v), somebody was told that it is %d", head, err, v.head)
	}
	for _, l := range v.links {
		if digest, err := log.DigestAt(ctx, l.position); err != nil || digest != l.digest {
			return fmt.Errorf("the chain's digest at position %d is %s (%v), it was %s", l.position, digest, err, l.digest)
		}
	}
	at, err := v.everything(ctx, log)
	if err != nil {
		return err
	}
	for i := range v.tracks {
		if err := v.inspectTrack(ctx, log, i, at); err != nil {
			return err
		}
	}
	_, err = v.everything(ctx, log)
	return err
}

// everything reads all events, and makes sure that they are in order and that reading stream by stream brings the same.
func (v *voyage) everything(ctx context.Context, log *embedded.Log) (map[uuid.UUID]eventstore.Position, error) {
	at := make(map[uuid.UUID]eventstore.Position)
	byStream := make(map[string][]uuid.UUID)
	var last eventstore.Position
	for e, err := range log.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			return nil, err
		}
		if e.Position <= last {
			return nil, fmt.Errorf("position %d comes after %d", e.Position, last)
		}
		if at[e.ID] != 0 {
			return nil, fmt.Errorf("event %s is at positions %d and %d", e.ID, at[e.ID], e.Position)
		}
		if e.Type == "Changed" && string(e.Data) != string(torture.Data(e.ID[:], len(e.Data))) {
			return nil, fmt.Errorf("the data of event %s has changed", e.ID)
		}
		last, at[e.ID] = e.Position, e.Position
		byStream[e.Stream] = append(byStream[e.Stream], e.ID)
	}
	for stream, ids := range byStream {
		n := 0
		for e, err := range log.ReadStream(ctx, stream, eventstore.ReadStream{}) {
			if errors.Is(err, eventstore.ErrStreamDeleted) {
				n = len(ids)
				break
			}
			if err != nil {
				return nil, err
			}
			if n == len(ids) || ids[n] != e.ID {
				return nil, fmt.Errorf("revision %d of %s, position %d, the %dth of %d, is not in the order of everything, which ends at %d", e.Revision, stream, e.Position, n+1, len(ids), last)
			}
			n++
		}
		if n != len(ids) {
			return nil, fmt.Errorf("%s has %d events, and %d in the order of everything", stream, n, len(ids))
		}
	}
	return at, nil
}

func (v *voyage) inspectTrack(ctx context.Context, log *embedded.Log, i int, at map[uuid.UUID]eventstore.Position) error {
	t := &v.tracks[i]
	for _, a := range t.acks {
		if p, ok := at[a.id]; ok && p != a.position {
			return fmt.Errorf("event %s of %s is at position %d, acknowledged at %d", a.id, t.name, p, a.position)
		}
	}
	missing := v.matches(ctx, log, t.name, t.state)
	if t.pending == nil {
		return missing
	}
	op := *t.pending
	applied, _ := t.state.Write(op)
	happened := v.matches(ctx, log, t.name, applied)
	if missing != nil && happened != nil {
		return fmt.Errorf("after %s without an answer, neither as if it had not happened (%w) nor as if it had (%w)", op, missing, happened)
	}
	for _, id := range op.IDs {
		if p, ok := v.seen[id]; ok && happened != nil {
			return fmt.Errorf("event %s was seen at position %d, and is gone: %w", id, p, happened)
		}
	}
	if happened == nil {
		t.state = applied
	}
	t.pending = nil
	if op.Kind != torture.Append || t.state.Hidden() {
		return nil
	}
	// To be made again with the same ids: it is there once after that.
	result := torture.Do(ctx, log, op)
	if err := t.state.Allows(op, result); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	v.acknowledge(i, op, result)
	return v.matches(ctx, log, t.name, t.state)
}

// matches says how a stream differs from what it should be.
func (v *voyage) matches(ctx context.Context, log *embedded.Log, stream string, want torture.Stream) error {
	for _, kind := range []torture.Kind{torture.Read, torture.ReadLast, torture.Metadata} {
		op := torture.Op{Kind: kind, Stream: stream}
		if err := want.Allows(op, torture.Do(ctx, log, op)); err != nil {
			return err
		}
	}
	return nil
}

// run makes the whole voyage.
func (v *voyage) run(ctx context.Context) error {
	for round := range 1 + v.random.IntN(3) {
		calls := v.random.Int64N(40)
		if v.random.IntN(3) > 0 {
			calls = v.random.Int64N(400)
		}
		if err := v.sail(ctx, 1+calls); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		for v.random.IntN(3) == 0 { // power fails while the log is opened, or just after
			if err := v.restart(1 + v.random.Int64N(60)); err != nil {
				return fmt.Errorf("round %d, failing again while it recovers: %w", round, err)
			}
		}
		if err := v.arrive(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

// restart opens the log on a disk that fails meanwhile, or when nobody has used it.
func (v *voyage) restart(crashAfter int64) error {
	disk := &mortalDisk{disk: v.disk, random: rand.New(rand.NewPCG(v.random.Uint64(), 2)), before: func() {}}
	disk.left.Store(crashAfter)
	opts := v.opts
	opts.FS = errorfs.Wrap(v.disk, disk)
	log, err := embedded.Open("log", opts)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	disk.fail()
	v.disk = disk.clone
	return log.Close()
}
