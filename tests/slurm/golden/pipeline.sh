# plan_0=$(sbatch --parsable '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/plan-0.sh')
#!/bin/bash
#SBATCH --job-name=plan
#SBATCH --array=0
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/plan-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/plan'/"$task"

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

command=(-m ingest plan ingest.yaml --out runs/v1/dataset)

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# ingest_0=$(sbatch --parsable '--dependency=afterok:$plan_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/ingest-0.sh')
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

command=(-m ingest run runs/v1/dataset --num-tasks 8 --task-index "$task")

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

command=(-m ingest finish runs/v1/dataset)

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# pack_0=$(sbatch --parsable '--dependency=afterok:$finish_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/pack-0.sh')
#!/bin/bash
#SBATCH --job-name=pack
#SBATCH --array=0-1
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/pack-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/pack'/"$task"

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

case $task in
  0) command=(-m shards pack runs/v1/dataset --view patch --out runs/v1/shards/patch) ;;
  1) command=(-m shards pack runs/v1/dataset --view cube --out runs/v1/shards/cube) ;;
esac

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# train_0=$(sbatch --parsable '--dependency=afterok:$pack_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/train-0.sh')
#!/bin/bash
#SBATCH --job-name=train
#SBATCH --array=0-1
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/train-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/train'/"$task"

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

case $task in
  0) command=(-m trainer resnet50 --data runs/v1/shards/patch --out runs/v1/runs/resnet50) ;;
  1) command=(-m trainer unet3d --data runs/v1/shards/cube --out runs/v1/runs/unet3d) ;;
esac

if [ -n "${SLURM_JOB_GPUS:-}" ] || nvidia-smi -L >/dev/null 2>&1; then
  echo "error: $SLURMD_NODENAME has GPUs, and nothing asked for them: submit again with" \
    "--option train.gpus-per-node=N (0 trains on CPUs), or state gpus_per_node in the site" >&2
  exit 2
fi
export ACCELERATE_USE_CPU=true
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" --oneliner | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
srun --nodes=1 --ntasks=1 --kill-on-bad-exit=1 \
  --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" \
  bash -c 'trap "" USR1 TERM; exec "$0" -m accelerate.commands.launch --machine_rank "$SLURM_PROCID" "$@"' python \
  --num_machines 1 --num_processes 1 \
  --mixed_precision no --dynamo_backend no --quiet \
  --main_process_ip "${address:-$first}" \
  --main_process_port $((20000 + SLURM_JOB_ID % 10000)) "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# predict_0=$(sbatch --parsable '--dependency=afterok:$train_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/predict-0.sh')
#!/bin/bash
#SBATCH --job-name=predict
#SBATCH --array=0-1
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/predict-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/predict'/"$task"

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

case $task in
  0) command=(-m trainer predict runs/v1/runs/resnet50 --split val test) ;;
  1) command=(-m trainer predict runs/v1/runs/unet3d --split val test) ;;
esac

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
# eval_0=$(sbatch --parsable '--dependency=afterok:$predict_0' --kill-on-invalid-dep=yes '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/eval-0.sh')
#!/bin/bash
#SBATCH --job-name=eval
#SBATCH --array=0
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/eval-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL

task=$((SLURM_ARRAY_TASK_ID + 0))
record='/lab/synapses/runs/it'"'"'s a run/slurm/tasks/eval'/"$task"

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

command=(-m eval runs/v1/runs/resnet50 runs/v1/runs/unet3d --out runs/v1/report)

python "${command[@]}" &

child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
