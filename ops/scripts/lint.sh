#!/usr/bin/env bash
# Formatting, vet and staticcheck over our own packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t files < <(git ls-files '*.go' | grep -vE '(^|/)generated(/|\.go$)')
unformatted=$(go tool gofumpt -l "${files[@]}")
if [ -n "$unformatted" ]; then
  printf 'lint: not gofumpt-formatted (go tool gofumpt -w FILE mends it):\n%s\n' "$unformatted" >&2
  exit 1
fi
go vet ./...
# With two cores and little memory per core staticcheck is kept to our packages' own diagnostics.
go tool staticcheck ./...
echo "lint: clean" >&2
