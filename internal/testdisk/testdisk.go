// Package testdisk says why nothing will run: on a disk that is nearly full nodes report DiskPressure, rightly, and a test that waits
// for a pod would wait in vain.
package testdisk

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A node reports DiskPressure with less than 10 per cent free; a run of the tests needs some of the rest.
const needed = 12 // per cent

// Need fails the test when the disk of temporary files is too full to run pods on.
func Need(t testing.TB) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &st); err != nil {
		t.Fatalf("looking how full the disk is: %v", err)
	}
	if st.Blocks == 0 {
		return
	}
	if free := st.Bavail * 100 / st.Blocks; free < needed {
		t.Fatalf("%s is nearly full: %d %% are free, and nodes report DiskPressure and run nothing below 10 %%: make room for at least %d %%, or set TMPDIR to another disk",
			os.TempDir(), free, needed)
	}
}
