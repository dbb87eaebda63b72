# ingest_0=$(sbatch --parsable '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/ingest-0.sh')
#!/bin/bash
#SBATCH --job-name=ingest
#SBATCH --array=0-7%2
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/ingest-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/ingest'/"$task"

note() {
  printf '%s %s %s %s\n' "$1" "$2" "$SLURM_JOB_ID" "$SLURMD_NODENAME" >"$record.tmp" &&
    mv -f -- "$record.tmp" "$record"
}
child='' signal=''
forward() {
  signal=$1
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
finish() {
  code=$?
  if [ "$code" -eq 0 ]; then
    note done 0
  elif [ "$signal" = TERM ]; then # Slurm ends the job, and queues it again itself if it wants to
    note stopped "$code"
  elif [ "$signal" = USR1 ] || [ "$code" -eq 75 ]; then # the work is saved, and goes on later
    note stopped "$code"
    scontrol requeue "$SLURM_JOB_ID" || note failed "$code"
  else
    note failed "$code"
  fi
}
trap finish EXIT
trap 'forward TERM' TERM
trap 'forward USR1' USR1
note running 0

set -e
export PYTHONUNBUFFERED=1
set +e
[ -z "$signal" ] || exit 75

command=(-m ingest run 'data/v 1' --num-tasks 8 --task-index "$task")

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# finish_0=$(sbatch --parsable '--dependency=afterok:$ingest_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/finish-0.sh')
#!/bin/bash
#SBATCH --job-name=finish
#SBATCH --array=0
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/finish-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/finish'/"$task"

note() {
  printf '%s %s %s %s\n' "$1" "$2" "$SLURM_JOB_ID" "$SLURMD_NODENAME" >"$record.tmp" &&
    mv -f -- "$record.tmp" "$record"
}
child='' signal=''
forward() {
  signal=$1
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
finish() {
  code=$?
  if [ "$code" -eq 0 ]; then
    note done 0
  elif [ "$signal" = TERM ]; then # Slurm ends the job, and queues it again itself if it wants to
    note stopped "$code"
  elif [ "$signal" = USR1 ] || [ "$code" -eq 75 ]; then # the work is saved, and goes on later
    note stopped "$code"
    scontrol requeue "$SLURM_JOB_ID" || note failed "$code"
  else
    note failed "$code"
  fi
}
trap finish EXIT
trap 'forward TERM' TERM
trap 'forward USR1' USR1
note running 0

set -e
export PYTHONUNBUFFERED=1
set +e
[ -z "$signal" ] || exit 75

command=(-m ingest finish 'data/v 1')

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
