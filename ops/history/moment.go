package history

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shiplog/shiplog/projections"
)

// Moment is a point of the past, by position of the log or by time.
type Moment struct {
	Now      bool
	Position uint64    // 0: by time
	Time     time.Time // of a moment by time
}

// ErrBadMoment says that a text names no moment.
var ErrBadMoment = errors.New("not a moment")

// layouts in which a time can be given, in the zone of the reader unless they say another.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02",
}

// ParseMoment reads "now"; a position of the log ("4711" or "#4711"); a time as RFC 3339, "2006-01-02 15:04:05", without seconds, or
// a day alone; or a time ago ("-10m", "10m ago", "1d12h ago"; units s, m, h, d, w). Errors are ErrBadMoment.
func ParseMoment(text string, now time.Time) (Moment, error) {
	t := strings.TrimSpace(text)
	if strings.EqualFold(t, "now") {
		return Moment{Now: true, Time: now}, nil
	}
	digits := strings.TrimPrefix(t, "#")
	if p, err := strconv.ParseUint(digits, 10, 64); err == nil {
		if p == 0 {
			return Moment{}, fmt.Errorf("%w: positions start at 1", ErrBadMoment)
		}
		return Moment{Position: p}, nil
	}
	ago, isAgo := strings.CutSuffix(t, " ago")
	if rest, ok := strings.CutPrefix(t, "-"); ok && !isAgo {
		ago, isAgo = rest, true
	}
	if isAgo {
		d, err := parseDuration(strings.TrimSpace(ago))
		if err != nil {
			return Moment{}, fmt.Errorf("%w: %q: %w", ErrBadMoment, text, err)
		}
		return Moment{Time: now.Add(-d)}, nil
	}
	for _, layout := range layouts {
		if at, err := time.ParseInLocation(layout, t, now.Location()); err == nil {
			return Moment{Time: at}, nil
		}
	}
	return Moment{}, fmt.Errorf("%w: %q: give a position of the log, a time as in 2026-05-01T10:00:00Z or \"2026-05-01 10:00:00\", a time ago as in -10m or \"10m ago\", or now", ErrBadMoment, text)
}

// parseDuration is time.ParseDuration with days and weeks, without a sign.
func parseDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, errors.New("no duration is given")
	}
	var sum time.Duration
	for s != "" {
		i := 0
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
			i++
		}
		j := i
		for j < len(s) && (s[j] < '0' || s[j] > '9') && s[j] != '.' {
			j++
		}
		number, unit := s[:i], strings.TrimSpace(s[i:j])
		s = strings.TrimSpace(s[j:])
		switch unit {
		case "d", "day", "days":
			unit = "d"
		case "w", "week", "weeks":
			unit = "w"
		case "min", "minute", "minutes":
			unit = "m"
		case "sec", "second", "seconds":
			unit = "s"
		case "hour", "hours":
			unit = "h"
		}
		if unit == "d" || unit == "w" {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return 0, fmt.Errorf("%q is no number", number)
			}
			if unit == "w" {
				n *= 7
			}
			sum += time.Duration(n * 24 * float64(time.Hour))
			continue
		}
		d, err := time.ParseDuration(number + unit)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration", number+unit)
		}
		sum += d
	}
	return sum, nil
}

// Resolve returns the position of a moment: of the last event not after it. A position that has not been reached is
// projections.ErrFuture.
func (m Moment) Resolve(ctx context.Context, h projections.History) (uint64, error) {
	last, err := h.Position(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking how far the log goes: %w", err)
	}
	switch {
	case m.Now:
		return last, nil
	case m.Position > last:
		return 0, fmt.Errorf("position %d: %w: the log stands at %d", m.Position, projections.ErrFuture, last)
	case m.Position > 0:
		return m.Position, nil
	}
	p, err := h.PositionAt(ctx, m.Time)
	if err != nil {
		return 0, fmt.Errorf("looking up the position at %s: %w", m.Time.Format(time.RFC3339), err)
	}
	return p, nil
}
