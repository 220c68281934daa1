// Package torture holds what the tests that try to break a log share: a model of a stream that says what each call may answer,
// a recorder of what concurrent clients did, and a check that it was linearizable.
package torture
