package view

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Of is the view of a moment as people write it: "" or "now", a position, a time, or a time before now ("-10m").
func (s *Set) Of(ctx context.Context, moment string) (*View, error) {
	moment = strings.TrimSpace(moment)
	if moment == "" || moment == "now" {
		return s.now(), nil
	}
	if position, err := strconv.ParseUint(moment, 10, 64); err == nil {
		return s.At(ctx, position)
	}
	t, err := s.time(moment)
	if err != nil {
		return nil, err
	}
	if t.After(s.Now()) {
		return nil, fmt.Errorf("asOf %q: %w", moment, projections.ErrFuture)
	}
	if s.History == nil {
		return nil, fmt.Errorf("%w: no history is kept here, only now can be asked about", projections.ErrUnavailable)
	}
	position, err := s.History.PositionAt(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("finding where the log stood at %s: %w", t.Format(time.RFC3339), err)
	}
	return s.At(ctx, position)
}

// time reads a time, or a span before now.
func (s *Set) time(moment string) (time.Time, error) {
	if span, ok := strings.CutPrefix(moment, "-"); ok {
		d, err := time.ParseDuration(span)
		if err != nil || d < 0 {
			return time.Time{}, fmt.Errorf("%w: asOf %q: a span of time is written like -10m or -1h30m", ErrBadRequest, moment)
		}
		return s.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, moment); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: asOf %q is no position, no time like 2026-01-02T03:04:05Z and no span like -10m", ErrBadRequest, moment)
}

func compareNames(a, b domain.Ref) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
