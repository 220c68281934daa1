package e2e

import "errors"

// errNotYet is for conditions whose name says all there is to say.
var errNotYet = errors.New("not yet")
