#!/usr/bin/env bash
# Start one node of a Ray cluster by hand; run it on every machine, on the head first.
#   studies/cluster/node.sh head                  the first machine
#   studies/cluster/node.sh join HEAD_IP          each further machine
#   studies/cluster/node.sh driver HEAD_IP        a machine that only launches studies
# Stop it with Ctrl-C. RAY_AUTH_TOKEN_PATH names the file with the cluster's token, the same on every machine
# (default ~/.ray/auth_token; `ray get-auth-token --generate` makes one). PORT is the head's port, 6379 by default.
set -euo pipefail

usage="usage: $0 head | join HEAD_IP | driver HEAD_IP"
role="${1:?$usage}"
port="${PORT:-6379}"
token="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [[ -z "${RAY_AUTH_TOKEN:-}" && ! -s "$token" ]]; then
    echo "there must be a token in $token: run \`ray get-auth-token --generate\` once and copy the file here" >&2
    exit 2
fi
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Searches keep their data outside Ray's object store, which would take 30 % of the memory.
common=(--block --object-store-memory 200000000)

case "$role" in
    head) exec ray start --head --port "$port" --include-dashboard=false "${common[@]}" ;;
    join) exec ray start --address "${2:?$usage}:$port" "${common[@]}" ;;
    driver) exec ray start --address "${2:?$usage}:$port" --num-cpus 0 --num-gpus 0 "${common[@]}" ;;
    *)
        echo "$usage" >&2
        exit 2
        ;;
esac
