#!/bin/bash
#PBS -N af
#PBS -l select=1:ncpus=1:mpiprocs=1
#PBS -r y
#PBS -j oe
#PBS -o /proj/af/foldline-jobs/af-1/

# Written by `foldline submit`. The job's notes and logs lie in the same folder.
job=/proj/af/foldline-jobs/af-1
cd /proj/af || exit 2
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT  # a shell inside another job may have passed these on

exec >> "$job/log-${PBS_JOBID%%[!0-9]*}.txt" 2>&1

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

mapfile -t hosts < <(awk '!seen[$0]++' "$PBS_NODEFILE")
port=$((20000 + ${PBS_JOBID%%[!0-9]*} * 31 % 10000))
foldline launch --ranks-per-node 1 --nodes 1 --node 0 --address "${hosts[0]}" --port "$port" -- train --config run.toml "${resume[@]}" &
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
        [ -e "$job/cancelled" ] || (cd "$job" && qsub job.sh >> ids)
        ;;
    *) echo "$code" > "$job/failed" ;;
esac
exit "$code"
