#!/bin/sh
#SBATCH --job-name=engine
#SBATCH --array=1-8
#SBATCH --cpus-per-task=16
#SBATCH --requeue --signal=TERM@120
# sbatch slurm.sh MODEL CORPUS OUT; one share again: sbatch --array=3 slurm.sh MODEL CORPUS OUT
engine run "$1" "$2" -o "$3" --text text --keep all --on-error reject --rejects-ok \
  --json --share "$SLURM_ARRAY_TASK_ID/${SHARES:-8}"
code=$?
if [ $code = 75 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit $code
