#!/usr/bin/env bash
# A command on every host of a TPU slice. Each host starts the same line; gendyn finds the others by itself.
#
#   NAME=gendyn ZONE=us-east5-a scripts/tpu_pod.sh setup
#   NAME=gendyn ZONE=us-east5-a scripts/tpu_pod.sh train cifar10_edm --out gs://BUCKET/runs/cifar --mesh fsdp=16
#   NAME=gendyn ZONE=us-east5-a scripts/tpu_pod.sh stop
#
# sh runs any line in the clone, for example a copy of the data: tpu_pod.sh sh "gcloud storage cp -r gs://BUCKET/mnist data/"
# REPOSITORY is what setup clones. DRY=1 prints the line instead of running it.
set -euo pipefail

everywhere() {
    local line=(gcloud compute tpus tpu-vm ssh "${NAME:?name of the TPU}" --zone "${ZONE:?its zone}" --worker all --command "$1")
    if [ -n "${DRY:-}" ]; then printf '%q ' "${line[@]}"; echo; else "${line[@]}"; fi
}

case ${1:?usage: scripts/tpu_pod.sh setup | sh LINE | stop | COMMAND ...} in
setup) everywhere "git clone ${REPOSITORY:?address of the repository} gendyn && cd gendyn && make setup EXTRAS=tpu" ;;
sh) everywhere "cd gendyn && ${2:?a line}" ;;
# SIGTERM: a checkpoint at one common step, then the end.
stop) everywhere "pkill -TERM -f 'gendyn ' || true" ;;
*)
    printf -v words '%q ' "$@"
    everywhere "cd gendyn && source scripts/flags.sh tpu && tmux new -d -s gendyn \".venv/bin/gendyn ${words% } > gendyn.log 2>&1\""
    ;;
esac
