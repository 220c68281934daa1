// Package live keeps the current state of the cluster in memory: the hot path of the scheduler, the controllers and the API's
// reads and watches. It starts from a snapshot or from the log's beginning and follows the log.
package live
