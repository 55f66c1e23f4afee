#!/usr/bin/env bash
# A run on a GKE cluster of TPUs through XPK (github.com/AI-Hypercomputer/xpk). IMAGE holds gendyn and its tpu extra.
#
#   CLUSTER=... IMAGE=... TYPE=v5litepod-256 SLICES=2 scripts/xpk.sh cifar train cifar10_edm --out gs://BUCKET/runs/cifar
#
# The first argument is the workload's name. DRY=1 prints the line instead of running it.
set -euo pipefail

name=${1:?usage: scripts/xpk.sh NAME COMMAND ...}
shift
printf -v words '%q ' "$@"
line=(xpk workload create --cluster "${CLUSTER:?}" --workload "$name" --tpu-type "${TYPE:?}" --num-slices "${SLICES:-1}"
    --docker-image "${IMAGE:?}" --command "source scripts/flags.sh tpu && gendyn ${words% }")
if [ -n "${DRY:-}" ]; then printf '%q ' "${line[@]}"; echo; else "${line[@]}"; fi
