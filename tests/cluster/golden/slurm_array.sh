#!/bin/bash
#SBATCH --job-name=s
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --array=0-7
#SBATCH --output=/proj/af/jobs/s-1/log-%A_%a.txt
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue

# Written by `foldline submit`. The job's notes and logs lie in the same folder.
job=/proj/af/jobs/s-1
cd /proj/af || exit 2
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT  # a shell inside another job may have passed these on
source /proj/venv/bin/activate

task=$SLURM_ARRAY_TASK_ID
[ -e "$job/cancelled" ] && exit 0
[ -e "$job/done.$task" ] && exit 0
foldline search q.fasta --db u=u.fa --out al --shard "$task/8" &
pid=$!

warned=0
warn() { warned=$((warned + 1)); echo "foldline: told to stop; saving"; kill -TERM "$pid" 2>/dev/null; }
trap warn USR1 TERM
while true; do
    before=$warned
    wait "$pid"; now=$?
    [ "$now" = 127 ] || code=$now
    [ "$before" = "$warned" ] && break  # otherwise the warning ended the wait, not the process
done
trap '' USR1 TERM
[ "$warned" -gt 0 ] && [ "$code" = 143 ] && code=75

[ "$code" -gt 128 ] && [ "$code" != 130 ] && code=69  # killed from outside is a lost rank, too; 130 is an interrupt
echo "foldline: ended with code $code"
case "$code" in
    0) : > "$job/done.$task" ;;
    69 | 75)
        if [ ! -e "$job/cancelled" ] && scontrol -o show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "; then
            echo "foldline: requeued"
            scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script
        fi
        ;;
    *) echo "$code" > "$job/failed.$task" ;;
esac
exit "$code"
