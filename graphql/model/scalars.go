// Package model holds the Go types behind the GraphQL schema: thin wrappers around objects and events of a view, whose methods are
// the fields. What gqlgen can make by itself (connections, inputs, enums) is in generated.go.
package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/shiplog/shiplog/graphql/view"
)

// Position is a place in the log. On the wire it is a JSON number; text is understood too.
type Position uint64

// MarshalGQL writes the scalar.
func (p Position) MarshalGQL(w io.Writer) {
	_, _ = io.WriteString(w, strconv.FormatUint(uint64(p), 10))
}

// UnmarshalGQL reads the scalar.
func (p *Position) UnmarshalGQL(v any) error {
	n, err := strconv.ParseUint(text(v), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: a position is a whole number from 0 on, not %v", view.ErrBadRequest, v)
	}
	*p = Position(n)
	return nil
}

// AsOf is a moment as people write it; package view gives it its meaning.
type AsOf string

// MarshalGQL writes the scalar.
func (a AsOf) MarshalGQL(w io.Writer) { _, _ = io.WriteString(w, strconv.Quote(string(a))) }

// UnmarshalGQL reads the scalar, a text or a number.
func (a *AsOf) UnmarshalGQL(v any) error {
	s := text(v)
	if s == "" && v != "" {
		return fmt.Errorf("%w: a moment is a position, a time or a span before now, not %v", view.ErrBadRequest, v)
	}
	*a = AsOf(s)
	return nil
}

// text is a text or a whole number of whatever form the transport gave it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case int64:
		return strconv.FormatInt(v, 10)
	case int:
		return strconv.Itoa(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// Time is an instant.
type Time time.Time

// MarshalGQL writes the scalar.
func (t Time) MarshalGQL(w io.Writer) {
	_, _ = io.WriteString(w, time.Time(t).UTC().Format(`"`+time.RFC3339Nano+`"`))
}

// UnmarshalGQL reads the scalar.
func (t *Time) UnmarshalGQL(v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("%w: a time is a text like 2026-01-02T03:04:05Z, not %v", view.ErrBadRequest, v)
	}
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("%w: a time is a text like 2026-01-02T03:04:05Z, not %q", view.ErrBadRequest, s)
	}
	*t = Time(parsed)
	return nil
}

// when is a time, or nil for none.
func when(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	out := Time(t)
	return &out
}

// JSON is any JSON value, passed on as it stands.
type JSON json.RawMessage

// MarshalGQL writes the scalar.
func (j JSON) MarshalGQL(w io.Writer) {
	if len(j) == 0 {
		_, _ = io.WriteString(w, "null")
		return
	}
	_, _ = w.Write(j)
}

// UnmarshalGQL reads the scalar.
func (j *JSON) UnmarshalGQL(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("reading a JSON value: %w", err)
	}
	*j = raw
	return nil
}

// value is a JSON value, or nil for none, which is another thing than null.
func value(raw []byte) *JSON {
	if len(raw) == 0 {
		return nil
	}
	j := JSON(bytes.Clone(raw))
	return &j
}

// optional is a text, or nil for an empty one.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
