// Package commands is the only way in: every change, whoever asks for it, is a Command handled by a Bus. It ends in events
// appended to the log, or in an error. This package holds the words only and is cheap to import; package registry (the API's
// meaning of kinds, admission), package storage (the API machinery's storage over the log) and package remote (a Bus over
// HTTP) do the work.
package commands
