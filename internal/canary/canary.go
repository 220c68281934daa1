// Package canary finds out whether secret values can be had from what a cluster leaves on disk. Tests hide values that occur nowhere else
// in Secrets, and look for them afterwards: in the bytes of files, in the events of the log, and behind every sealed payload with every key
// that is left.
package canary

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// Forms are the ways in which a value may be written: plain, in hexadecimal, and in base64 wherever it begins in what was encoded, also as
// text that was encoded twice.
func Forms(value string) [][]byte {
	forms := [][]byte{[]byte(value), []byte(hex.EncodeToString([]byte(value)))}
	for _, inner := range append([][]byte{[]byte(value)}, base64Forms([]byte(value))...) {
		forms = append(forms, base64Forms(inner)...)
	}
	return forms
}

// base64Forms is what of a value's encoding does not depend on what stands before and after it, at each of the three places.
func base64Forms(value []byte) [][]byte {
	var forms [][]byte
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), value...))
		from, to := (shift*8+5)/6, (shift+len(value))*8/6
		forms = append(forms, []byte(encoded[from:to]))
	}
	return forms
}

// Finding is where a value was found.
type Finding struct {
	Value, Where string
}

func (f Finding) String() string { return f.Value + " in " + f.Where }

// InBytes looks for values in bytes.
func InBytes(values []string, where string, data []byte) []Finding {
	var found []Finding
	for _, v := range values {
		for _, form := range Forms(v) {
			if bytes.Contains(data, form) {
				found = append(found, Finding{v, where})
				break
			}
		}
	}
	return found
}

// InFiles looks for values in every file below a directory. Files that go away meanwhile are none of its business.
func InFiles(values []string, dir string) ([]Finding, error) {
	var found []Finding
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		found = append(found, InBytes(values, path, data)...)
		return nil
	})
	return found, err
}

// InLog looks for values in every event, as it is read: a log compresses what it keeps.
func InLog(ctx context.Context, values []string, log eventstore.Log) ([]Finding, error) {
	var found []Finding
	for r, err := range log.ReadAll(ctx, eventstore.ReadAll{}) {
		if err != nil {
			return nil, err
		}
		where := fmt.Sprintf("%s at position %d of %s", r.Type, r.Position, r.Stream)
		found = append(found, InBytes(values, where, append(append([]byte(r.Type+" "), r.Data...), r.Metadata...))...)
	}
	return found, nil
}

// oneKey opens whatever asks.
type oneKey []byte

func (k oneKey) DataKey(string) ([]byte, bool) { return k, true }

// Recoverable tries every key on the payload of every version of every object that the log has ever had, and returns the values that it
// gets, and how many payloads it has seen.
func Recoverable(ctx context.Context, values []string, log eventstore.Log, keys [][]byte) (found []Finding, payloads int, err error) {
	states := map[string]domain.State{}
	for r, err := range log.ReadAll(ctx, eventstore.ReadAll{}) {
		if err != nil {
			return nil, 0, err
		}
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return nil, 0, err
		}
		if !ok || !projections.Concerns(r, e) {
			continue
		}
		before := states[r.Stream]
		s, err := before.Apply(e)
		if err != nil {
			return nil, 0, err
		}
		if states[r.Stream] = s; bytes.Equal(before.JSON, s.JSON) || !domain.IsSealed(s.JSON) {
			continue
		}
		payloads++
		for _, key := range keys {
			if open, err := domain.Open(s.JSON, e.Ref, oneKey(key)); err == nil {
				found = append(found, InBytes(values, fmt.Sprintf("the payload at position %d of %s", r.Position, r.Stream), open)...)
			}
		}
	}
	return found, payloads, nil
}
