#!/usr/bin/env bash
# The figures of docs/performance.md: the built binary as a user meets it, then the hot paths.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -x bin/etcd/etcd ] || ops/scripts/etcd.sh || echo "bench: without etcd's figures" >&2
go run ./ops/bench -bin bin/shiplog "$@"
go test -run '^$' -bench . -benchmem -benchtime 1s ./domain/... ./eventstore/... ./projections/... ./scheduler/... ./controllers/... ./runtime/proxy/...
