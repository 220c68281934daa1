// Package embedded keeps a log in a directory of this machine, on Pebble.
//
// One goroutine, the committer, makes every change: it takes all appends that wait, checks what each of them expects of its
// stream, gives positions and revisions, writes one synced Pebble batch, and only then tells the writers. Readers see
// nothing above the head, which moves after the sync; so what was read once is never gone after a crash.
package embedded
