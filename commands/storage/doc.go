// Package storage is the API machinery's storage (k8s.io/apiserver/pkg/storage.Interface) over the log and the read models.
//
// A write is one command and one append: it is computed from the live object and appended to the object's stream with the exact
// revision that it was computed from, so a write that lost a race is computed again and nothing is ever overwritten. A read is
// answered by the live view once that reflects the log's head; a read of the past by History. A watch follows the live view
// and, where its position is older than what that remembers, starts with the log's own history.
//
// Writes to a context that is bound to a moment of the past (WithAsOf) are refused: the past cannot be changed.
package storage
