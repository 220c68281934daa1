package seal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Options of a notary. The zero value is ready to use.
type Options struct {
	// Every is after how many events a checkpoint is signed. Default 10,000.
	Every int
	// Within is how long an event waits for the next checkpoint at most. Default 10 minutes.
	Within time.Duration
	// LeavesOut are the beginnings of the names of streams that a server may shorten, for a log that keeps no chain itself. The
	// system's streams ("$...") are left out in any case.
	LeavesOut []string
	// Retry is how long the notary waits when the log does not answer. Default 5 s.
	Retry  time.Duration
	Logger *slog.Logger // default slog.Default()
	// Now and After are the clock. Defaults time.Now and time.After.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
}

// Notary signs checkpoints of a log.
type Notary struct {
	log     eventstore.Log
	chained eventstore.Chained // nil when the log keeps no chain
	key     *Key
	opts    Options
	logger  *slog.Logger

	last     Checkpoint          // in the log
	revision eventstore.Expected // of it
	chain    *follower           // unless chained
	at       eventstore.Position // up to here everything was counted
	count    int                 // events since the last checkpoint
	due      <-chan time.Time    // when the next checkpoint is due at the latest; nil while there is nothing new
}

// NewNotary makes a notary that signs with a key. Run makes it work.
func NewNotary(log eventstore.Log, key *Key, opts Options) *Notary {
	if opts.Every <= 0 {
		opts.Every = 10_000
	}
	if opts.Within <= 0 {
		opts.Within = 10 * time.Minute
	}
	if opts.Retry <= 0 {
		opts.Retry = 5 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.After == nil {
		opts.After = time.After
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	n := &Notary{log: log, key: key, opts: opts, logger: opts.Logger}
	n.chained, _ = log.(eventstore.Chained)
	return n
}

// Run signs until the context ends, whose error it returns after a last checkpoint, or the log is closed. When the log does not answer or takes no writes, it tries
// again.
func (n *Notary) Run(ctx context.Context) error {
	for said := false; ; {
		number := n.last.Number
		err := n.run(ctx)
		switch {
		case ctx.Err() != nil:
			n.finish(ctx)
			return ctx.Err()
		case errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrVersion):
			return fmt.Errorf("signing the log: %w", err)
		}
		if !said || n.last.Number != number { // a disk stays full for long, and once is enough
			n.logger.Warn("signing the log failed; it is tried again until it succeeds", "error", err)
		}
		said = true
		select {
		case <-n.opts.After(n.opts.Retry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish signs what came since the last checkpoint, when the end has come.
func (n *Notary) finish(ended context.Context) {
	if n.count == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ended), n.opts.Retry)
	defer cancel()
	if err := n.seal(ctx); err != nil {
		n.logger.Warn("the end of the log was not signed; the next start signs it", "error", err)
	}
}

// run signs until something fails.
func (n *Notary) run(ctx context.Context) error {
	if err := n.begin(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub, err := n.log.Subscribe(ctx, eventstore.Subscribe{After: n.at, Filter: eventstore.Filter{System: true}})
	if err != nil {
		return err
	}
	defer sub.Close()
	batches, ended := make(chan eventstore.Batch), make(chan error, 1)
	go func() {
		for {
			b, err := sub.Next(ctx)
			if err != nil {
				ended <- err
				return
			}
			select {
			case batches <- b:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	for {
		select {
		case b := <-batches:
			err = n.took(ctx, b)
		case <-n.due:
			err = n.seal(ctx)
		case err = <-ended:
		}
		if err != nil {
			return err
		}
	}
}

// begin finds out where the log was signed last.
func (n *Notary) begin(ctx context.Context) (err error) {
	if n.last, n.revision, err = Last(ctx, n.log); err != nil {
		return err
	}
	n.due = nil
	if n.chained != nil {
		n.count = 0
		if n.at = n.last.Position; n.revision != eventstore.NoStream {
			return nil
		}
		// The chain holds what came before, so there is no need to read it.
		if n.at, err = n.log.Head(ctx); err != nil || n.at == 0 {
			return err
		}
		n.count = 1
		return n.seal(ctx)
	}
	chain := newFollower(n.opts.LeavesOut)
	if n.chain != nil && slices.Equal(n.chain.leavesOut, chain.leavesOut) {
		if n.count > 0 { // it goes on where it was
			n.due = n.opts.After(n.opts.Within)
		}
		return nil
	}
	n.chain, n.at, n.count = chain, 0, 0
	if n.revision == eventstore.NoStream {
		return nil
	}
	if !n.last.SignedWith(n.key.Public()) || !slices.Equal(n.last.LeavesOut, chain.leavesOut) {
		n.logger.Info("the last checkpoint was made with another key or over other streams: reading the log from its beginning", "checkpoint", n.last.Number)
		return nil
	}
	n.at, n.chain.digest = n.last.Position, n.last.Digest
	return nil
}

// took counts the events of a batch.
func (n *Notary) took(ctx context.Context, b eventstore.Batch) error {
	for i := range b.Events {
		e := &b.Events[i]
		if n.chain != nil {
			n.chain.add(e)
		}
		n.at = e.Position
		if e.Stream == Stream || e.Stream == eventstore.MetadataStream(Stream) {
			continue
		}
		if n.count++; n.count >= n.opts.Every {
			if err := n.seal(ctx); err != nil {
				return err
			}
		}
	}
	if n.at = max(n.at, b.Checkpoint); n.count > 0 && n.due == nil {
		n.due = n.opts.After(n.opts.Within)
	}
	return nil
}

// seal signs the log as it is up to where the notary has come.
func (n *Notary) seal(ctx context.Context) error {
	c := Checkpoint{Version: version, Position: n.at, Date: n.opts.Now().UTC()}
	if n.chained != nil {
		digest, err := n.chained.DigestAt(ctx, n.at)
		if err != nil {
			return err
		}
		c.Digest = digest
	} else {
		c.Digest, c.Followed, c.LeavesOut = n.chain.digest, true, n.chain.leavesOut
	}
	for {
		if c.Number = n.last.Number + 1; n.last.Position >= c.Position && n.last.Followed == c.Followed {
			break // another notary has been here
		}
		if err := c.sign(n.key); err != nil {
			return err
		}
		p, err := c.proposed()
		if err != nil {
			return err
		}
		a, err := n.log.Append(ctx, Stream, n.revision, p)
		if err == nil {
			n.last, n.revision = c, eventstore.Exact(a.Revision)
			break
		}
		if !errors.Is(err, eventstore.ErrWrongExpectedRevision) {
			return fmt.Errorf("writing a checkpoint: %w", err)
		}
		if n.last, n.revision, err = Last(ctx, n.log); err != nil {
			return err
		}
	}
	n.count, n.due = 0, nil
	return nil
}
