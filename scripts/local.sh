#!/usr/bin/env bash
# One run in several processes on this machine: to try a pod without one.
#
#   scripts/local.sh 2 train digits_edm --out runs/two --steps 20
#
# The first argument is the number of processes, the rest are the arguments of gendyn. On a CPU every process gets
# DEVICES devices (default 2). When one process fails the others are ended too. GENDYN names the command, PORT the
# coordinator's port.
set -euo pipefail

count=${1:?usage: scripts/local.sh PROCESSES COMMAND ...}
shift
port=${PORT:-$((20000 + RANDOM % 20000))}
processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true' INT TERM

for index in $(seq 0 $((count - 1))); do
    JAX_NUM_CPU_DEVICES=${DEVICES:-2} ${GENDYN:-gendyn} "$@" \
        --coordinator "127.0.0.1:$port" --num-processes "$count" --process-id "$index" &
    processes+=($!)
done

status=0
for _ in "${processes[@]}"; do
    wait -n || { status=$?; kill "${processes[@]}" 2>/dev/null || true; }
done
exit "$status"
