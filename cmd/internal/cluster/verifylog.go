package cluster

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/seal"
	"github.com/shiplog/shiplog/projections/postgres"
)

// logKey is the key that signs the log, in the directory of the certificates.
const logKey = "log.key"

// startNotary signs the log while the cluster runs.
func (cp *controlPlane) startNotary(group interface{ Go(func() error) }, running context.Context) error {
	key, err := seal.EnsureKey(cp.dir.Join(pkiDir, logKey))
	if err != nil {
		return err
	}
	cp.logKey = key.Public()
	notary := seal.NewNotary(cp.log, key, seal.Options{LeavesOut: shortenedStreams(), Logger: cp.logger})
	group.Go(func() error { return notary.Run(running) })
	return nil
}

// shortenedStreams are the beginnings of the names of streams that do not keep all their events.
func shortenedStreams() (prefixes []string) {
	for _, k := range domain.NewSet(domain.Kinds()).All() {
		if k.Retained() {
			prefixes = append(prefixes, domain.StreamPrefix(k.GroupResource()))
		}
	}
	return prefixes
}

// LogQuestion is what to check a log against, besides itself.
type LogQuestion struct {
	Expected  []string `json:"expected,omitempty"`  // POSITION:DIGEST, as an earlier verification printed
	PublicKey string   `json:"publicKey,omitempty"` // PEM; that of the data directory unless given
}

// LogReport is what the verification of a log has found.
type LogReport struct {
	Sound  bool                `json:"sound"`
	Faults []eventstore.Fault  `json:"faults,omitempty"`
	Head   eventstore.Position `json:"head"`
	Digest eventstore.Digest   `json:"digest"`
	// Expect is what to keep elsewhere, and to give back with --expect.
	Expect    string             `json:"expect"`
	Contents  *embedded.Verified `json:"contents,omitempty"` // of a log that keeps a hash chain itself
	Signed    seal.Answer        `json:"signed"`
	KeyID     string             `json:"keyID,omitempty"` // of the key that signatures were checked with; empty: they were not checked
	LeavesOut []string           `json:"leavesOut,omitempty"`
}

// checker is a log that checks itself.
type checker interface {
	Check(ctx context.Context, progress func(done, head eventstore.Position)) (embedded.Verified, []eventstore.Fault, error)
}

// verifyLog checks a log in every way there is. known is the key of the data directory, nil when there is none.
func verifyLog(ctx context.Context, log eventstore.Log, q LogQuestion, known ed25519.PublicKey, report func(Step)) (*LogReport, error) {
	question := seal.Question{Key: known, LeavesOut: shortenedStreams()}
	if q.PublicKey != "" {
		key, err := seal.ParsePublicKey([]byte(q.PublicKey))
		if err != nil {
			return nil, err
		}
		question.Key, question.MustBeSigned = key, true
	}
	for _, s := range q.Expected {
		e, err := seal.ParseExpected(s)
		if err != nil {
			return nil, err
		}
		question.Expected = append(question.Expected, e)
	}
	out := &LogReport{}
	if question.Key != nil {
		out.KeyID = seal.KeyID(question.Key)
	}
	if c, ok := log.(checker); ok {
		contents, faults, err := c.Check(ctx, positions(report, "reading the log"))
		if err != nil {
			return nil, err
		}
		out.Contents, out.Faults = &contents, faults
	} else {
		out.LeavesOut = question.LeavesOut
	}
	question.Progress = positions(report, "comparing the log with its checkpoints")
	answer, faults, err := seal.Verify(ctx, log, question)
	if err != nil {
		return nil, err
	}
	out.Signed, out.Head, out.Digest = answer, answer.Head, answer.Digest
	out.Expect = seal.Expected{Position: answer.Head, Digest: answer.Digest}.String()
	out.Faults = append(out.Faults, faults...)
	out.Sound = len(out.Faults) == 0
	return out, nil
}

// positions turns a log's progress into steps, no more than a few a second.
func positions(report func(Step), what string) func(done, head eventstore.Position) {
	var last time.Time
	return func(done, head eventstore.Position) {
		if now := time.Now(); now.Sub(last) >= 300*time.Millisecond {
			last = now
			report(Step{Message: fmt.Sprintf("%s: %d of %d", what, done, head)})
		}
	}
}

// step is the report as the end of a long request.
func (r *LogReport) step() Step {
	s := Step{Log: r, Failed: !r.Sound, Message: fmt.Sprintf("the log is sound up to position %d, digest %s", r.Head, r.Digest)}
	if !r.Sound {
		s.Message = fmt.Sprintf("the log is not sound: %d faults, the first: %s", len(r.Faults), r.Faults[0])
	}
	return s
}

func (cp *controlPlane) verifyLogStep(ctx context.Context, q LogQuestion, report func(Step)) Step {
	r, err := verifyLog(ctx, cp.log, q, cp.logKey, report)
	if err != nil {
		return Step{Failed: true, Message: "verifying the log: " + err.Error()}
	}
	return r.step()
}

// verifyAll verifies the log, and what is derived from it.
func (cp *controlPlane) verifyAll(ctx context.Context, report func(Step)) Step {
	last := cp.verifyLogStep(ctx, LogQuestion{}, report)
	if last.Failed {
		return last
	}
	report(last)
	return cp.tendRead(ctx, report, func(models *postgres.Models) Step { return verify(ctx, models, report) })
}

// LogPlace says which log to verify when it is not that of a running cluster: one of the fields is set.
type LogPlace struct {
	DataDir    string // of a stopped cluster
	Dir        string // of `shiplog eventstore serve`
	EventStore string // esdb://...
}

// VerifyLogAt verifies a log that no running cluster holds.
func VerifyLogAt(ctx context.Context, place LogPlace, q LogQuestion, report func(Step)) (_ *LogReport, err error) {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	var log eventstore.Log
	var known ed25519.PublicKey
	closeLog := func() error { return log.Close() }
	switch {
	case place.Dir != "":
		log, err = embedded.Open(place.Dir, embedded.Options{ReadOnly: true, Logger: logger})
	case place.EventStore != "":
		log, err = esdb.Open(ctx, place.EventStore, esdb.Options{Logger: logger})
	default:
		if known, err = knownKey(place.DataDir); err == nil {
			log, closeLog, err = OpenLog(place.DataDir, logger)
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	return verifyLog(ctx, log, q, known, report)
}

// knownKey is the public key of a data directory, nil when it has none.
func knownKey(dataDir string) (ed25519.PublicKey, error) {
	key, err := seal.ReadPublicKey(seal.PublicPath(filepath.Join(dataDir, pkiDir, logKey)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return key, err
}

// PublicLogKey returns the key that the signatures of a data directory's log are checked with, in PEM, to be kept elsewhere.
func PublicLogKey(dataDir string) ([]byte, error) {
	data, err := os.ReadFile(seal.PublicPath(filepath.Join(dataDir, pkiDir, logKey)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the log of %s has not been signed yet: start the cluster once", dataDir)
	}
	return data, err
}
