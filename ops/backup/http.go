package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Prefix is the path under which a running cluster gives a backup of its log.
const Prefix = "/shiplog/v1/backup/"

// question is what a client wants backed up.
type question struct {
	Log  eventstore.Digest `json:"log,omitzero"`
	Base Mark              `json:"base,omitzero"`
}

// NewHandler answers a POST to Prefix with a backup without keys: those never leave the machine by this way. Who may ask is for the
// caller to decide: everything that ever was is in it.
func NewHandler(log eventstore.Log, version string, logger *slog.Logger) http.Handler {
	source := SourceOf(log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "ask for a backup by POST", http.StatusMethodNotAllowed)
			return
		}
		var q question
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&q); err != nil {
			http.Error(w, "reading what to back up: "+err.Error(), http.StatusBadRequest)
			return
		}
		answer := &firstWrite{ResponseWriter: w}
		o := Options{Base: q.Base, Log: q.Log, Shiplog: version, Now: time.Now()}
		trailer, err := Write(r.Context(), answer, source, o)
		switch {
		case err == nil:
			logger.Info("gave a backup of the log", "after", q.Base.Position, "head", trailer.Head.Position, "entries", trailer.Entries)
		case r.Context().Err() != nil: // nobody waits for it any more
		case answer.begun:
			logger.Error("a backup broke off", "error", err)
			frame := frameOf(sectionFailure, []byte(err.Error()))
			_, _ = w.Write(append(frame[:], err.Error()...)) // without it the client finds that the end is missing
		case errors.Is(err, ErrForeign):
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// firstWrite knows whether the answer has begun.
type firstWrite struct {
	http.ResponseWriter
	begun bool
}

func (f *firstWrite) Write(data []byte) (int, error) {
	if !f.begun {
		f.begun = true
		f.Header().Set("Content-Type", "application/octet-stream")
	}
	return f.ResponseWriter.Write(data)
}

// Fetch writes a backup of a running cluster, and checks all of it while it does. Keys come from the directory that the options
// name, which must be the cluster's.
func Fetch(ctx context.Context, w io.Writer, client *http.Client, server string, o Options) (Trailer, error) {
	var b *Reader
	var out *sectionWriter
	var body io.ReadCloser
	var held bytes.Buffer // what was read while it was not clear whether the keys go with it
	keys, err := keysWith(o.KeysOf, func() (err error) {
		if body != nil {
			body.Close()
		}
		if body, err = ask(ctx, client, server, question{Log: o.Log, Base: o.Base}); err != nil {
			return err
		}
		held.Reset()
		out = &sectionWriter{w: &held, hash: sha256.New()}
		b, err = newReader(body, out)
		return err
	})
	if body != nil {
		defer body.Close()
	}
	if err != nil {
		return Trailer{}, err
	}
	if _, err := w.Write(held.Bytes()); err != nil {
		return Trailer{}, fmt.Errorf("writing the backup: %w", err)
	}
	out.w = w
	for {
		_, err := b.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Trailer{}, err
		}
		if o.Progress != nil {
			o.Progress(b.At().Position, b.Header.Head.Position)
		}
	}
	return b.Trailer(), finish(out, keys, b.Trailer(), o)
}

func ask(ctx context.Context, client *http.Client, server string, q question) (io.ReadCloser, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server+Prefix, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for a backup: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status says enough when the text cannot be read
	err = fmt.Errorf("asking the cluster for a backup: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	if resp.StatusCode == http.StatusConflict {
		err = fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return nil, err
}
