#!/bin/bash
#PBS -N s
#PBS -l select=1:ncpus=1:mpiprocs=1
#PBS -l walltime=12:00:00
#PBS -J 0-7
#PBS -r y
#PBS -j oe
#PBS -o /proj/af/jobs/s-1/

# Written by `foldline submit`. The job's notes and logs lie in the same folder.
job=/proj/af/jobs/s-1
cd /proj/af || exit 2
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT  # a shell inside another job may have passed these on
source /proj/venv/bin/activate

exec >> "$job/log-${PBS_JOBID%%[!0-9]*}-${PBS_ARRAY_INDEX:-0}.txt" 2>&1

task=${PBS_ARRAY_INDEX:-0}
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
        :
        ;;
    *) echo "$code" > "$job/failed.$task" ;;
esac
exit "$code"
