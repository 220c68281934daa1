#!/usr/bin/env bash
# Builds etcd and its benchmark tool into a directory (bin/etcd unless named), for the figures that are measured beside them.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=v3.6.8
out=${1:-bin/etcd}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/etcd" "$work/benchmark"
cat >"$work/etcd/main.go" <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
cat >"$work/benchmark/main.go" <<'GO'
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/v3/tools/benchmark/cmd"
)

func main() {
	if err := cmd.RootCmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
GO
cd "$work"
echo "etcd.sh: building etcd $version" >&2
{
  go mod init etcdbench
  go get go.etcd.io/etcd/server/v3@$version go.etcd.io/etcd/v3@$version
  go mod tidy
  go build -o "$out/etcd" ./etcd
  go build -o "$out/benchmark" ./benchmark
} >build.log 2>&1 || { cat build.log >&2; exit 1; }
echo "etcd.sh: $out" >&2
