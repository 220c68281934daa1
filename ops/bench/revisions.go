package main

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// measureRevisions writes many revisions of an object of 10 KB of which one field changes each time, and measures what they take on
// disk.
func (b *bench) measureRevisions(ctx context.Context) error {
	const revisions = 2000
	documents, err := revisionsOf(revisions)
	if err != nil {
		return err
	}
	ours, err := logRevisions(ctx, documents)
	if err != nil {
		return err
	}
	b.report(fmt.Sprintf("on disk per revision of an object of %d B, one field changed: log", len(documents[0])), "%d B", ours/revisions)
	if b.etcd.there() {
		theirs, err := b.etcd.revisions(ctx, documents)
		if err != nil {
			return err
		}
		b.report("the same: etcd, all revisions kept, compacted and defragmented", "%d B", theirs/revisions)
	}
	return nil
}

func revisionsOf(n int) ([][]byte, error) {
	kind, ok := domain.NewSet(domain.Kinds()).ByResource(domain.Resource{Resource: "configmaps"})
	if !ok {
		return nil, fmt.Errorf("there is no kind ConfigMap")
	}
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"},
		Data:       map[string]string{"config.json": string(repetitive(9_700))},
	}
	documents := make([][]byte, n)
	for i := range documents {
		object.Data["generation"] = fmt.Sprintf("%016x", uint64(i)*0x9e3779b97f4a7c15)
		var err error
		if documents[i], err = domain.Encode(kind, object); err != nil {
			return nil, err
		}
	}
	return documents, nil
}

func logRevisions(ctx context.Context, documents [][]byte) (size int64, err error) {
	dir, remove, err := tempDir()
	if err != nil {
		return 0, err
	}
	defer remove()
	log, err := embedded.Open(dir, embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	ref := domain.Ref{Resource: "configmaps", Namespace: "default", Name: "settings", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"}
	expected, now := eventstore.NoStream, time.Now()
	for i, d := range documents {
		e := domain.Event{
			ID: uuid.NewString(), Type: "ConfigMapDataChanged", Ref: ref, Op: domain.Changed, Actor: domain.Actor{User: "kubernetes-admin", Groups: []string{"system:masters", "system:authenticated"}, UserAgent: "kubectl/v1.37.2 (linux/amd64)", SourceIP: "127.0.0.1"},
			Command: domain.CommandInfo{Verb: "patch", RequestID: uuid.NewString()}, Correlation: uuid.NewString(), Time: now.Add(time.Duration(i) * time.Second), Version: domain.SchemaVersion,
		}
		if i == 0 {
			e.Type, e.Op, e.Change = "ConfigMapCreated", domain.Created, d
		} else if e.Change, err = domain.Diff(documents[i-1], d); err != nil {
			return 0, err
		}
		p, err := eventstore.Propose(e)
		if err != nil {
			return 0, err
		}
		a, err := log.Append(ctx, ref.Stream(), expected, p)
		if err != nil {
			return 0, err
		}
		expected = eventstore.Exact(a.Revision)
	}
	if err := log.Close(); err != nil {
		return 0, err
	}
	return sizeOf(dir)
}

func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
