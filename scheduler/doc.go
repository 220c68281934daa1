// Package scheduler decides on which node a pod runs, and says why.
//
// Schedule is a function of values: a Snapshot of the nodes and what their pods request, and the pods that wait. It knows no
// clock, no randomness and no client, so the same input gives the same placements and reasons at any time. State keeps the
// snapshot up to date with each change of the cluster, at the cost of that change. Scheduler is the edge: it follows the live
// view, keeps the pods that wait, and commits placements as Binding commands whose evidence is the reasons.
package scheduler
