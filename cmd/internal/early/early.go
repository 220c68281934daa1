// Package early is what happens before other packages are initialised: more than half of a start's time goes by before main. Of the
// packages whose imports are ready, Go initialises that whose path sorts first (The Go Programming Language Specification, "Program
// initialization"), and all of Kubernetes' sort behind this one.
package early

import "runtime"

// ballast is never read or written, and so takes no memory. The garbage collector, which would otherwise run several times in the
// fraction of a second that a start takes, waits until as much again has been allocated.
var ballast = make([]byte, 128<<20) // about what a start allocates on an empty log, in bytes

// Over lets the garbage collector work as it does in other programs. It is called once.
func Over() {
	runtime.KeepAlive(ballast)
	ballast = nil
}
