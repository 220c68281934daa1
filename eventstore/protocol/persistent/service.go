package persistent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/shiplog/shiplog/eventstore"
)

// Service runs the groups of a log. There should be one for a log at a time.
type Service struct {
	log    eventstore.Log
	logger *slog.Logger

	mu       sync.Mutex // held while groups are made, changed and ended
	groups   map[string]*group
	revision eventstore.Expected // of the definitions
	loaded   bool
	closed   bool
}

// New makes a service. The groups run from Load on, or from the first use.
func New(log eventstore.Log, logger *slog.Logger) *Service {
	return &Service{log: log, logger: logger}
}

// Load reads the definitions and starts the groups, unless they run.
func (s *Service) Load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loadLocked(ctx)
}

func (s *Service) loadLocked(ctx context.Context) error {
	if s.closed {
		return ErrClosed
	}
	if s.loaded {
		return nil
	}
	definitions, revision, err := readConfig(ctx, s.log)
	if err != nil {
		return err
	}
	s.groups, s.revision, s.loaded = make(map[string]*group), revision, true
	for _, d := range definitions {
		s.groups[d.Key()] = startGroup(s.log, d, s.logger)
	}
	return nil
}

// saveLocked writes the definitions of the groups, with one more or one less. When somebody else has written them, everything is
// read again at the next use.
func (s *Service) saveLocked(ctx context.Context, by string, without string, with *Definition) error {
	var definitions []Definition
	for key, g := range s.groups {
		if key != without {
			definitions = append(definitions, g.Definition)
		}
	}
	if with != nil {
		definitions = append(definitions, *with)
	}
	slices.SortFunc(definitions, func(a, b Definition) int { return cmp.Compare(a.Key(), b.Key()) })
	revision, err := writeConfig(ctx, s.log, s.revision, definitions, by, now())
	if errors.Is(err, eventstore.ErrWrongExpectedRevision) {
		err = fmt.Errorf("%w: another server runs the groups of this log: %w", eventstore.ErrUnavailable, err)
		return errors.Join(err, s.unloadLocked(ctx, ErrDropped))
	}
	if err == nil {
		s.revision = revision
	}
	return err
}

// Create makes a group. It is there when Create returns, and gets what is appended from then on, wherever it starts.
func (s *Service) Create(ctx context.Context, d Definition, by string) error {
	d.Settings = d.withDefaults()
	if err := d.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil {
		return err
	}
	if s.groups[d.Key()] != nil {
		return ErrExists
	}
	var err error
	if d.after, err = s.after(ctx, &d); err != nil {
		return err
	}
	// A group of this name may have been there before; what it left behind is not this one's.
	if err := newState(s.log, &d).forget(ctx); err != nil {
		return err
	}
	if err := s.saveLocked(ctx, by, "", &d); err != nil {
		return err
	}
	s.groups[d.Key()] = startGroup(s.log, d, s.logger)
	return nil
}

// after finds out where a group begins.
func (s *Service) after(ctx context.Context, d *Definition) (*uint64, error) {
	var place uint64
	switch {
	case !d.Start.FromEnd && d.Start.At == 0:
		return nil, nil
	case !d.Start.FromEnd:
		place = d.Start.At - 1
	case d.Stream == All:
		head, err := s.log.Head(ctx)
		if err != nil {
			return nil, err
		}
		place = uint64(head)
	default:
		last, err := lastOf(ctx, s.log, d.Stream)
		if err != nil || last == nil {
			return nil, err
		}
		place = last.Revision
	}
	return &place, nil
}

// Update changes a group's settings, and drops its consumers. A group that has a checkpoint goes on from there; its filter stays.
func (s *Service) Update(ctx context.Context, d Definition, by string) error {
	d.Settings = d.withDefaults()
	s.mu.Lock()
	defer s.mu.Unlock()
	old, err := s.findLocked(ctx, d.Stream, d.Group)
	if err != nil {
		return err
	}
	d.Filter = old.Filter
	if err := d.check(); err != nil {
		return err
	}
	if d.after, err = s.after(ctx, &d); err != nil {
		return err
	}
	if err := s.saveLocked(ctx, by, d.Key(), &d); err != nil {
		return err
	}
	if err := old.end(ctx, ErrDropped); err != nil {
		s.logger.Warn("a persistent subscription may hand out again what was finished", "group", d.Key(), "error", err)
	}
	s.groups[d.Key()] = startGroup(s.log, d, s.logger)
	return nil
}

// Delete ends a group, drops its consumers and forgets what it remembered.
func (s *Service) Delete(ctx context.Context, stream, name, by string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(ctx, stream, name)
	if err != nil {
		return err
	}
	if err := s.saveLocked(ctx, by, g.Key(), nil); err != nil {
		return err
	}
	delete(s.groups, g.Key())
	return errors.Join(g.end(ctx, fmt.Errorf("%w: %w", ErrDropped, ErrNotFound)), g.state.forget(ctx))
}

func (s *Service) findLocked(ctx context.Context, stream, name string) (*group, error) {
	if err := s.loadLocked(ctx); err != nil {
		return nil, err
	}
	g := s.groups[Key(stream, name)]
	if g == nil {
		return nil, ErrNotFound
	}
	return g, nil
}

func (s *Service) find(ctx context.Context, stream, name string) (*group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(ctx, stream, name)
}

// Connect subscribes to a group. The consumer has to be closed.
func (s *Service) Connect(ctx context.Context, stream, name string, c Client) (*Consumer, error) {
	if c.Slots < 1 {
		return nil, fmt.Errorf("%w: a consumer takes at least one event at a time", ErrSettings)
	}
	g, err := s.find(ctx, stream, name)
	if err != nil {
		return nil, err
	}
	return g.connect(c)
}

// Replay hands out a group's parked events again: all, or those whose place among the parked ones is before stopAt.
func (s *Service) Replay(ctx context.Context, stream, name string, stopAt *uint64) error {
	g, err := s.find(ctx, stream, name)
	if err != nil {
		return err
	}
	return g.replay(stopAt)
}

// Info tells about a group.
func (s *Service) Info(ctx context.Context, stream, name string) (Info, error) {
	g, err := s.find(ctx, stream, name)
	if err != nil {
		return Info{}, err
	}
	return g.info(ctx)
}

// List tells about all groups, or about those of a stream. A stream without any is ErrNotFound.
func (s *Service) List(ctx context.Context, stream string) ([]Info, error) {
	s.mu.Lock()
	err := s.loadLocked(ctx)
	var groups []*group
	for _, g := range s.groups {
		if stream == "" || g.Stream == stream {
			groups = append(groups, g)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if stream != "" && len(groups) == 0 {
		return nil, ErrNotFound
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(a.Key(), b.Key()) })
	var infos []Info
	for _, g := range groups {
		i, err := g.info(ctx)
		if err != nil {
			return nil, err
		}
		infos = append(infos, i)
	}
	return infos, nil
}

// Restart ends all groups, drops their consumers, and begins again with what the log says.
func (s *Service) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.unloadLocked(ctx, ErrDropped), s.loadLocked(ctx))
}

// Close ends all groups.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.unloadLocked(ctx, fmt.Errorf("%w: %w", ErrDropped, ErrClosed))
	s.closed = true
	return err
}

func (s *Service) unloadLocked(ctx context.Context, reason error) error {
	var errs []error
	for _, g := range s.groups {
		errs = append(errs, g.end(ctx, reason))
	}
	s.groups, s.loaded = nil, false
	return errors.Join(errs...)
}
