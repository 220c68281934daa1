// Package postgres keeps the read models in Postgres 13 or later:
//
//	events   each event, as the log has it, with what it can be found by
//	current  each object as it is now
//	history  each object as it was: which events lead to it at any position, from a whole copy now and then
//	audit    who did what, from where, when, with which result, refused requests included
//	causes   which event made which other happen
//
// All tables of one version stand in a schema of their own (views_v2) with one checkpoint, and one transaction writes the rows
// of a batch and moves the checkpoint: every event counts once, whoever else writes and whatever breaks. A schema that is
// missing, or whose version is another, is built from the log's beginning beside what there is, and takes its place when it has
// caught up. Nothing here is worth a backup: everything can be built again.
//
// Of kinds whose past is bounded (domain.Kind.Retained: leases, Kubernetes' Events) only current is kept. What the log forgets
// cannot be built again, and nobody asks for it.
package postgres
