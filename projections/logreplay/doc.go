// Package logreplay answers projections.History from the log alone, by folding it: for looking back at a stopped cluster's data
// directory, where there is no Postgres, and as the plain answer that the tests hold the fast ones against.
package logreplay
