#!/usr/bin/env bash
# A study on a Slurm allocation: Ray's head and the driver on the first node, Ray on every other one.
#   sbatch --nodes 4 --gpus-per-node 8 studies/cluster/slurm.sh STUDY.yaml [options of `snas study run`]
# Two minutes before the time limit the study is stopped as by Ctrl-C and the job queued again, or submitted again by
# hand: it resumes the study where it stopped. `scancel` does not queue it again.
# Needs: an environment with snas on a shared disk (SNAS_VENV), a shared folder of runs (SNAS_RUNS), and for more than
# one node OPTUNA_STORAGE and MLFLOW_TRACKING_URI; credentials as in docs/cluster.md.
#SBATCH --job-name=snas
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

study="${1:?usage: sbatch slurm.sh STUDY.yaml [options of snas study run]}"
shift
: "${SNAS_VENV:?must name the virtual environment, on a disk that every node has}"
: "${SNAS_RUNS:?must name the folder of runs, on a disk that every node has}"
# shellcheck source=/dev/null
source "$SNAS_VENV/bin/activate"
export RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
# A node may print several addresses; the first IPv4 one is taken.
head_ip="$(srun --nodes=1 --ntasks=1 --overlap --nodelist "$head" hostname --ip-address | tr ' ' '\n' | grep -m1 '\.')"
port="${PORT:-$((20000 + SLURM_JOB_ID % 10000))}" # two jobs may share a head node

# A token of this job alone, in a file that only the user can read: other users of the network must not join.
token_file="$SNAS_RUNS/.ray-token-$SLURM_JOB_ID"
mkdir -p "$SNAS_RUNS"
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$token_file")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token_file"

started=()
stop() {
    rm -f "$token_file"
    for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait
}
trap stop EXIT

# Slurm signals this shell alone. bash runs a trap when `wait` returns, not while a program in the foreground runs.
driver="" is_at_limit=""
pass_on() { if [[ -n "$driver" ]]; then kill -TERM "$driver" 2> /dev/null || true; fi; }
trap 'is_at_limit=1; pass_on' USR1
trap 'pass_on; [[ -n "$driver" ]] || exit 143' TERM

start_on() {
    local node="$1"
    shift
    srun --nodes=1 --ntasks=1 --overlap --nodelist "$node" ray start "$@" --block --object-store-memory 200000000 &
    started+=("$!")
}

start_on "$head" --head --node-ip-address "$head_ip" --port "$port" --include-dashboard=false
for ((second = 0; second < 120; second++)); do
    (: > "/dev/tcp/$head_ip/$port") 2> /dev/null && break
    sleep 1
done
for node in "${nodes[@]:1}"; do start_on "$node" --address "$head_ip:$port"; done

# Nodes need some seconds to join; a study started before would not check the late ones.
for ((second = 0; second < 180; second++)); do
    report="$(snas cluster check --address "$head_ip:$port" --json 2> /dev/null || true)"
    joined="$(python -c 'import json, sys; print(len(json.loads(sys.argv[1])["nodes"]))' "$report" 2> /dev/null || echo 0)"
    [[ "$joined" -ge "${#nodes[@]}" ]] && break
    sleep 1
done

name="$(python -c 'import sys; from orchestrator.study_file.loading import load_study; print(load_study(sys.argv[1]).name)' "$study")"
if [[ -e "$SNAS_RUNS/$name/study.yaml" ]]; then
    command=(resume "$name")
else
    command=(run "$study" "$@")
fi
code=143
if [[ -z "$is_at_limit" ]]; then
    snas study "${command[@]}" --address "$head_ip:$port" --runs "$SNAS_RUNS" &
    driver="$!"
    while kill -0 "$driver" 2> /dev/null; do wait "$driver" || true; done # a signal ends `wait` too
    code=0
    wait "$driver" || code=$?
fi
if [[ -n "$is_at_limit" && "$code" == 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
[[ "$code" == 0 ]] || exit "$code"
