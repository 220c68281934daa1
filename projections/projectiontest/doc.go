// Package projectiontest holds what the tests of the projections share: a log in memory whose subscriptions can be made to fail,
// a Scribe that writes a cluster's events into a log the way commands do, random histories, and the suite that every
// implementation of projections.History passes.
package projectiontest
