package logreplay_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/memory"
)

const (
	benchPods    = 2000
	benchChanges = 50 // of each
)

// benchLog is a log of pods that change their status again and again.
func benchLog(b *testing.B) *embedded.Log {
	log, err := embedded.Open(b.TempDir(), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	kind, _ := domain.NewSet(domain.Kinds()).ByResource(domain.Resource{Resource: "pods"})
	json := make([][]byte, benchPods)
	for round := range benchChanges {
		for n := range benchPods {
			pod := benchPod(n, round)
			after, err := domain.Encode(kind, pod)
			if err != nil {
				b.Fatal(err)
			}
			e := domain.Event{
				ID: uuid.NewString(), Type: "PodChanged", Ref: kind.Ref("default", pod.Name), Op: domain.Changed,
				Actor:       domain.Actor{User: "system:node:node-17", Groups: []string{"system:nodes", "system:authenticated"}, UserAgent: "shiplog/agent"},
				Command:     domain.CommandInfo{Verb: "update", Subresource: "status", RequestID: uuid.NewString()},
				Correlation: uuid.NewString(), Cause: &domain.Cause{ID: uuid.NewString(), Position: 7}, Time: time.Unix(int64(round), 0), Version: domain.SchemaVersion,
			}
			e.Ref.UID = pod.UID
			expected := eventstore.NoStream
			if round == 0 {
				e.Op, e.Change = domain.Created, after
			} else if e.Change, err = domain.Diff(json[n], after); err != nil {
				b.Fatal(err)
			} else {
				expected = eventstore.Exact(uint64(round) - 1)
			}
			json[n] = after
			p, err := eventstore.Propose(e)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := log.Append(b.Context(), e.Ref.Stream(), expected, p); err != nil {
				b.Fatal(err)
			}
		}
	}
	return log
}

func benchPod(n, round int) *corev1.Pod {
	status := corev1.ConditionTrue
	if round%2 == 1 {
		status = corev1.ConditionFalse
	}
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, round, 5, 0, time.UTC))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("web-%d", n), Namespace: "default", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"about": strings.Repeat("what somebody wrote ", 20)},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-17", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{
				{Name: "web", Image: "registry.example/web:1.2.3", Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "two"}}},
				{Name: "sidecar", Image: "registry.example/proxy:4.5.6", Args: []string{"--upstream=127.0.0.1:8080", "--log-level=info"}},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.17.9", HostIP: "10.0.0.17",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(7, 0))},
				{Type: corev1.PodReady, Status: status, LastTransitionTime: at},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: round%2 == 0, RestartCount: int32(round), Image: "registry.example/web:1.2.3"}},
		},
	}
}

// BenchmarkFromTheLog reads a log of 100,000 events from its beginning: the same bytes from a file, with a checksum (raw); as events
// (read); folded into the objects that they lead to (fold); and these decoded and put under their indexes as well (index).
func BenchmarkFromTheLog(b *testing.B) {
	log := benchLog(b)
	kinds := domain.NewSet(domain.Kinds())
	raw := filepath.Join(b.TempDir(), "raw")
	size, err := writeRaw(b, log, raw)
	if err != nil {
		b.Fatal(err)
	}
	head := uint64(benchPods * benchChanges)
	measure := func(name string, pass func(b *testing.B) error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if err := pass(b); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(uint64(n)*head)/b.Elapsed().Seconds(), "events/s")
		})
	}
	measure("raw", func(*testing.B) error { return readRaw(raw) })
	measure("read", func(b *testing.B) error {
		for _, err := range log.ReadAll(b.Context(), eventstore.ReadAll{}) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	fold := func(b *testing.B) (*memory.Store, error) {
		objects := memory.NewStore()
		events, err := logreplay.Continue(b.Context(), log, kinds, objects, map[domain.Ref]struct{}{}, 0, head)
		if err == nil && (objects.Len() != benchPods || events != head) {
			err = fmt.Errorf("%d objects, %d events", objects.Len(), events)
		}
		return objects, err
	}
	measure("fold", func(b *testing.B) error {
		_, err := fold(b)
		return err
	})
	measure("index", func(b *testing.B) error {
		objects, err := fold(b)
		if err != nil {
			return err
		}
		bound := 0
		for range objects.Snapshot(head).Index(domain.Resource{Resource: "pods"}, domain.NodeIndex, "node-17") {
			bound++
		}
		if bound != benchPods {
			err = fmt.Errorf("%d pods on the node", bound)
		}
		return err
	})
}

// writeRaw writes the events' data and metadata to a file, each record with its length and checksum.
func writeRaw(b *testing.B, log eventstore.Log, name string) (size int64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	var head [8]byte
	for e, err := range log.ReadAll(b.Context(), eventstore.ReadAll{}) {
		if err != nil {
			return 0, err
		}
		record := append(append([]byte(nil), e.Data...), e.Metadata...)
		binary.LittleEndian.PutUint32(head[:], uint32(len(record)))
		binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(record, castagnoli))
		for _, part := range [][]byte{head[:], record} {
			if _, err := w.Write(part); err != nil {
				return 0, err
			}
		}
		size += int64(len(record))
	}
	return size, w.Flush()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func readRaw(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var head [8]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		record := make([]byte, binary.LittleEndian.Uint32(head[:])) // as a reader that hands its events on has to
		if _, err := io.ReadFull(r, record); err != nil {
			return err
		}
		if crc32.Checksum(record, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return fmt.Errorf("a record of %s is damaged", name)
		}
	}
}
