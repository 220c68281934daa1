// Package engine runs projections: a catch-up subscription of the log becomes a watermill Subscriber whose messages are batches
// of events; watermill's router hands them to the projection, with retries while the projection's store is away.
//
//	log --Subscribe--> Subscriber --message = batch, n+1 only after n is acked--> Router{Retry} --> Projection.Apply in the
//	store's transaction, which moves the checkpoint too: rows and checkpoint commit together, so that every event counts once.
//
// A projection never skips an event. One that it cannot apply stops it, and Run says which and why.
package engine
