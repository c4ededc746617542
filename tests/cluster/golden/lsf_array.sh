#!/bin/bash
#BSUB -J "s[1-8]"
#BSUB -n 1
#BSUB -R "span[ptile=1]"
#BSUB -W 12:00
#BSUB -wa USR1 -wt 5
#BSUB -Q "69 75"
#BSUB -r
#BSUB -o /proj/af/jobs/s-1/lsf-%J.txt

# Written by `foldline submit`. The job's notes and logs lie in the same folder.
job=/proj/af/jobs/s-1
cd /proj/af || exit 2
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT  # a shell inside another job may have passed these on
source /proj/venv/bin/activate

exec >> "$job/log-$LSB_JOBID-$LSB_JOBINDEX.txt" 2>&1

task=$((LSB_JOBINDEX - 1))
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
