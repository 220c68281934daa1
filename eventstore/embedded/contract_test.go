package embedded_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func open(t testing.TB, dir string, opts embedded.Options) *embedded.Log {
	t.Helper()
	log, err := embedded.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

func TestContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) eventstore.Log { return open(t, t.TempDir(), embedded.Options{}) })
}

// With next to no memory everything is read from disk, and every cache overflows.
func TestContractWithoutMemory(t *testing.T) {
	contract.Run(t, func(t *testing.T) eventstore.Log {
		return open(t, "log", embedded.Options{FS: vfs.NewMem(), TailEvents: 1, TailBytes: 1, CachedStreams: 1, MemTableBytes: 256 << 10})
	})
}
