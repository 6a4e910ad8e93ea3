#!/bin/sh
# parallel.sh MODEL CORPUS OUT: a share on each of these machines, which see the same folders.
# --joblog and --resume-failed: started again, only shares that failed or were stopped run.
shares=${SHARES:-8}
seq "$shares" | parallel --jobs 1 --sshloginfile "${MACHINES:-machines.txt}" \
  --joblog shares.log --resume-failed --line-buffer --tag \
  engine run "$1" "$2" -o "$3" --text text --keep all --on-error reject --rejects-ok \
  --json --share "{}/$shares"
