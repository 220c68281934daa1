// Package controllers turns what the cluster is into what it should be. A Controller is a pure function from a view of the
// cluster, a key and the time to a Decision: the commands to issue, when to look again, what to tell the user. The Runtime
// feeds controllers with keys from the changes of the live view, carries their commands to the bus with the cause of each, and
// retries what failed. Each controller stands in a package of its own below this one; package standard lists them all.
package controllers
