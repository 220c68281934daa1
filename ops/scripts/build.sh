#!/usr/bin/env bash
# build.sh OUTPUT PACKAGE LDFLAGS: go build with a line of progress. Kubernetes' libraries take minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1 pkg=$2 ldflags=$3

start=$SECONDS
mkdir -p "$(dirname "$out")"
if [ -t 2 ]; then end='\r'; every=1; else end='\n'; every=100; fi
total=$(go list -deps "$pkg" | wc -l)
# `go build -v` names each package that it really compiles; packages in the cache are not named.
go build -v -ldflags "$ldflags" -o "$out" "$pkg" 2> >(
  awk -v total="$total" -v every="$every" -v end="$end" '
    /^#|: / { printf "\n%s\n", $0 > "/dev/stderr"; next }
    { n++; if (n % every == 0) { printf "build: %4d packages compiled (of at most %d) %-60.60s" end, n, total, $0 > "/dev/stderr"; fflush("/dev/stderr") } }
    END { if (n) printf "build: %4d packages compiled%80s\n", n, "" > "/dev/stderr" }' >&2
) || { sleep 0.1; echo "build: failed" >&2; exit 1; }
wait
echo "build: $out is ready after $((SECONDS - start)) s" >&2
