#!/usr/bin/env bash
# Runs the two-tier example on the running cluster, fetches its page, and says what to try next.
set -euo pipefail
cd "$(dirname "$0")/../.."
shiplog=bin/shiplog
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. Loading the images that were built from examples/store and examples/web"
for archive in bin/images/*.tar; do
  "$shiplog" image load "$archive"
done

say "2. Applying examples/two-tier: a store and a web tier, each a ReplicationController with a Service"
"$shiplog" kubectl apply -f examples/two-tier

say "3. Waiting until both tiers answer"
for rc in store web; do
  want=$("$shiplog" kubectl get rc "$rc" -o 'jsonpath={.spec.replicas}')
  "$shiplog" kubectl wait "rc/$rc" "--for=jsonpath={.status.readyReplicas}=$want" --timeout=120s
done
curl --silent --show-error --fail --retry 30 --retry-delay 1 --retry-all-errors --output /dev/null http://127.0.0.1:30001/healthz

say "4. The page, through the node port: curl http://127.0.0.1:30001/"
curl --silent --show-error --fail -H 'Accept: text/plain' http://127.0.0.1:30001/

pod=$("$shiplog" kubectl get pods -l app=web -o 'jsonpath={.items[0].metadata.name}')
cat <<TXT

Try next:
  $shiplog kubectl get pods,services -o wide
  $shiplog kubectl scale rc/web --replicas=4
  $shiplog history rc/web                      # who changed it, and what
  $shiplog why pod/$pod            # why is it there, and on this node
  $shiplog at -1m kubectl get pods             # the cluster as it was a minute ago
  $shiplog verify                              # everything derived still agrees with the log
  http://127.0.0.1:8089/                       # GraphQL, with asOf on every query
The same application as Deployments: $shiplog kubectl apply -f examples/two-tier-deployments
TXT
