// Package history looks back: what happened to an object (history), why it is as it is (why), who set each of its fields (blame),
// what is different between two moments (diff). It reads projections.History and knows nothing of where the past is kept, so the
// same commands work on a running cluster, a data directory and a bundle.
//
// Each command is a function from values to values (Changes, Why, Blame, Compare) and one that writes the outcome as a table, JSON
// or YAML. NewCommands wraps them as cobra commands.
package history
