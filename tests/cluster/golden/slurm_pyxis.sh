#!/bin/bash
#SBATCH --job-name=af
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=8
#SBATCH --mem=900G
#SBATCH --time=1-00:00:00
#SBATCH --account=bio
#SBATCH --partition=gpu
#SBATCH --output=/proj/af/foldline-jobs/af-1/log-%j.txt
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --exclusive

# Written by `foldline submit`. The job's notes and logs lie in the same folder.
job=/proj/af/foldline-jobs/af-1
cd /proj/af || exit 2
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT  # a shell inside another job may have passed these on
source /proj/venv/bin/activate
export NCCL_DEBUG=WARN
export NOTE='two words'

[ -e "$job/cancelled" ] && exit 0
[ -e "$job/done" ] && exit 0
[ -e "$job/failed" ] && exit "$(cat "$job/failed")"
run=runs/af
newest() { compgen -G "$run/checkpoints/step_*/manifest.json" | sort | tail -n 1; }
at=$(newest); at=${at:-no checkpoint}
resume=()
if [ -e "$job/starts" ]; then
    if [ "$(tail -n 3 "$job/starts" | grep -cxF -- "$at")" = 3 ]; then
        echo "foldline: 3 starts ended with no new checkpoint ($at); giving up"
        echo 1 > "$job/failed"
        exit 1
    fi
    if [ "$at" != "no checkpoint" ]; then
        resume=(--resume)
    elif [ -e "$run/config.json" ]; then
        lost=$run.lost_$(date +%s)  # ended before its first checkpoint: nothing to go on from
        mv "$run" "$lost" && echo "foldline: starting from the beginning; what there was is in $lost"
    fi
fi
echo "$at" >> "$job/starts"

srun --nodes=4 --ntasks=32 --ntasks-per-node=8 --cpus-per-task=12 --cpu-bind=none --kill-on-bad-exit=0 --wait=120 '--container-image=reg#foldline:1' --container-mounts=/proj/af:/proj/af,/proj/af/foldline-jobs/af-1:/proj/af/foldline-jobs/af-1,/data:/data --container-workdir=/proj/af foldline train --config run.toml "${resume[@]}" &
pid=$!

warned=0
warn() { warned=$((warned + 1)); echo "foldline: told to stop; saving"; kill -USR1 "$pid" 2>/dev/null; }
trap warn USR1 TERM
while true; do
    before=$warned
    wait "$pid"; now=$?
    [ "$now" = 127 ] || code=$now
    [ "$before" = "$warned" ] && break  # otherwise the warning ended the wait, not the process
done
trap '' USR1 TERM

[ "$code" -gt 128 ] && [ "$code" != 130 ] && code=69  # killed from outside is a lost rank, too; 130 is an interrupt
echo "foldline: ended with code $code"
case "$code" in
    0) : > "$job/done" ;;
    69 | 75)
        if [ ! -e "$job/cancelled" ] && scontrol -o show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "; then
            echo "foldline: requeued"
            scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script
        fi
        ;;
    *) echo "$code" > "$job/failed" ;;
esac
exit "$code"
