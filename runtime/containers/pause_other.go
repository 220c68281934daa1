//go:build !amd64

package containers

// pauseProgram is nil where there is no small program: the agent's own binary is then run as "pause" (see PauseMain).
var pauseProgram []byte
