# train_0=$(sbatch --parsable '/lab/synapses/runs/it'"'"'s a run/slurm/scripts/train-0.sh')
#!/bin/bash
#SBATCH --job-name=train
#SBATCH --array=0-3%2
#SBATCH --chdir=/lab/synapses
#SBATCH --output="/lab/synapses/runs/it's a run/slurm/logs/train-0/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --partition=gpu-a40
#SBATCH --time=48:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --gres=gpu:a40:4
#SBATCH --account=synapses
#SBATCH --mail-user=me@lab.edu
#SBATCH --mail-type=END,FAIL
#SBATCH --nodes=2

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
source "$(conda info --base)/etc/profile.d/conda.sh"
conda activate synshards
set +e
[ -z "$signal" ] || exit 75

case $task in
  0) command=(-m trainer unet3d --data s3://lab/fold0/cube --out runs/sweep/unet3d-fold0-seed1 --seed 1 --lr '$(rm -rf ~)') ;;
  1) command=(-m trainer unet3d --data s3://lab/fold0/cube --out runs/sweep/unet3d-fold0-seed2 --seed 2 --lr '$(rm -rf ~)') ;;
  2) command=(-m trainer unet3d --data s3://lab/fold1/cube --out runs/sweep/unet3d-fold1-seed1 --seed 1 --lr '$(rm -rf ~)') ;;
  3) command=(-m trainer unet3d --data s3://lab/fold1/cube --out runs/sweep/unet3d-fold1-seed2 --seed 2 --lr '$(rm -rf ~)') ;;
esac

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" --oneliner | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
srun --nodes=2 --ntasks=2 --kill-on-bad-exit=1 \
  --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" \
  bash -c 'trap "" USR1 TERM; exec "$0" -m accelerate.commands.launch --machine_rank "$SLURM_PROCID" "$@"' python \
  --num_machines 2 --num_processes 8 --multi_gpu \
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
