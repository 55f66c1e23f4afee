#!/usr/bin/env bash
# One run over the GPUs of several nodes. Edit the numbers, then:
#
#   sbatch scripts/slurm.sh train experiments/cifar10_edm.py --out /shared/runs/cifar --mesh fsdp=8
#
# A task per GPU: jax gives each task the GPU of its place on the node, and finds the others through SLURM. --out must
# be on storage that every node sees. SLURM sends SIGTERM two minutes before the end: the run writes a checkpoint at one
# common step, and the same command (or --requeue) continues it.
#SBATCH --job-name=gendyn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

root=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}
# shellcheck source=scripts/flags.sh
source "$root/scripts/flags.sh" gpu
srun --kill-on-bad-exit=1 ${GENDYN:-gendyn} "$@"
