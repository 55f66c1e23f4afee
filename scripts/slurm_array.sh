#!/usr/bin/env bash
# Independent runs, one per line of a file, as a SLURM array:
#
#   gendyn transfer transfer_mlp --out sweeps/mlp --jobs 16          # writes sweeps/mlp/jobs.txt
#   sbatch --array=0-15 scripts/slurm_array.sh sweeps/mlp/jobs.txt
#   gendyn transfer transfer_mlp --out sweeps/mlp                    # merges, when they are done
#
# Without SLURM the same list runs on one machine: xargs -P 4 -I {} sh -c '{}' < sweeps/mlp/jobs.txt
#SBATCH --job-name=gendyn-array
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --output=%x-%A-%a.log
set -euo pipefail

list=${1:?usage: sbatch --array=0-N scripts/slurm_array.sh LIST}
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$list")
[ -n "$line" ] || { echo "$list has no line $((SLURM_ARRAY_TASK_ID + 1))" >&2; exit 1; }
echo "$line"
unset SLURM_PROCID SLURM_NTASKS  # a run of its own, not a process of one run
eval "$line"
