#!/usr/bin/env bash
# Installs what Shiplog and its tests need and this machine lacks. Idempotent; says nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf '%s\n' "$*" >&2; }

command -v go >/dev/null || { say "deps: Go is not installed; install Go 1.26 or later and put it on PATH"; exit 1; }

# binary:package
wanted=(runc:runc conmon:conmon iptables:iptables ipset:ipset ip:iproute2 conntrack:conntrack curl:curl git:git)
missing=()
for pair in "${wanted[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
[ -x /bin/busybox ] || missing+=(busybox-static)

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { say "deps: please install: ${missing[*]}"; exit 1; }
  [ "$(id -u)" = 0 ] || { say "deps: run as root to install: ${missing[*]}"; exit 1; }
  say "deps: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  # The distribution's own Postgres cluster is not wanted: Shiplog starts a private one.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
  { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
    { tail -20 "$log" >&2; say "deps: installing failed; the whole output is in $log"; exit 1; }
  rm -f "$log"
fi

go mod download
