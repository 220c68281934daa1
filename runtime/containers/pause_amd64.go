package containers

import _ "embed"

// pauseProgram is a static program of a few hundred bytes; its source stands beside it in pause/pause_amd64.S.
//
//go:embed pause/pause_amd64
var pauseProgram []byte
