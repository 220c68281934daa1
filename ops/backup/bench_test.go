package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/ops/backup"
)

// benchPast is a log of events as clusters have them: about a kilobyte of JSON that mostly says what the event before it said.
func benchPast(b *testing.B, events int) (*past, int64) {
	b.Helper()
	p := newPast(b, filepath.Join(b.TempDir(), "log"), 1)
	size := int64(0)
	for i := 0; i < events; i += 100 {
		batch := make([]eventstore.Proposed, 100)
		for j := range batch {
			data := fmt.Sprintf(`{"metadata":{"name":"web-%d","uid":%q},"status":{"phase":"Running","message":%q}}`, i, uuid.NewString(), strings.Repeat("the container is running; ", 32))
			batch[j] = eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: []byte(data), Metadata: []byte(`{"actor":"system:node:n1","verb":"update","subresource":"status"}`)}
			size += int64(len(batch[j].Data) + len(batch[j].Metadata))
		}
		if _, err := p.log.Append(context.Background(), fmt.Sprintf("pods-default/web-%d", i), eventstore.Any, batch...); err != nil {
			b.Fatal(err)
		}
	}
	return p, size
}

const benchEvents = 20_000

func perEvent(b *testing.B) {
	b.ReportMetric(float64(benchEvents*b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkBackup(b *testing.B) {
	p, size := benchPast(b, benchEvents)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := backup.Write(context.Background(), io.Discard, p.log, backup.Options{}); err != nil {
			b.Fatal(err)
		}
	}
	perEvent(b)
}

func BenchmarkInspect(b *testing.B) {
	p, size := benchPast(b, benchEvents)
	data := p.backup(backup.Options{})
	b.ReportMetric(float64(size)/float64(len(data)), "times-smaller")
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := backup.Inspect(context.Background(), "", bytes.NewReader(data), nil); err != nil {
			b.Fatal(err)
		}
	}
	perEvent(b)
}

func BenchmarkRestore(b *testing.B) {
	p, size := benchPast(b, benchEvents)
	file := write(b, p.backup(backup.Options{}))
	b.SetBytes(size)
	for b.Loop() {
		if _, _, err := restore(b, backup.Restore{Files: []string{file}, Dir: b.TempDir()}); err != nil {
			b.Fatal(err)
		}
	}
	perEvent(b)
}
