// Package memory keeps the objects of a cluster in memory: Store is what one writer changes, Snapshot is what many readers
// read, without locks, while the writer goes on. Both share the nodes of copy-on-write trees, so that taking a snapshot costs
// next to nothing and a change copies the path to one leaf.
package memory
