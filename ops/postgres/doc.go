// Package postgres runs a private Postgres for the read models: found among the installed binaries, initialised once, reachable
// by a unix socket alone, frugal, restarted when it dies and stopped when its parent does. When the parent is root it runs as the
// user "postgres" (or "nobody"), since Postgres refuses to run as root.
//
// What it keeps can be built again from the log, so it is set up for little memory and few wake-ups rather than for the last
// transaction: fsync stays on, because a database that a power cut has damaged silently would lie, but synchronous_commit is off,
// because the checkpoint of a read model is written in the transaction that writes its rows: whatever is lost is lost together and
// read from the log again. A cluster directory that cannot be started any more (damaged, or of a Postgres that has been
// uninstalled) is thrown away and initialised anew for the same reason.
//
//	Start -> lock directory -> stop what a killed parent left -> initdb once -> supervise: run, wait, restart with back-off
package postgres
