//go:build !amd64

package containers

import specs "github.com/opencontainers/runtime-spec/specs-go"

// architectures is empty: the runtime takes the machine's own.
func architectures() []specs.Arch { return nil }
