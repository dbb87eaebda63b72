#!/usr/bin/env bash
# The whole main job on the phantom, 2D and 3D. Usage: docs/demo.sh [FOLDER]
# Every step continues or skips what an earlier run finished, so it is safe to run again.
set -euo pipefail
out=${1:-runs/demo}
read -ra phantom <<<"${DEMO_PHANTOM:-}" # e.g. "--size 640 640 96 --neurons 16 --synapses 80"
read -ra train_2d <<<"${DEMO_2D:-}"     # e.g. "--epochs 1"
read -ra train_3d <<<"${DEMO_3D:-}"

step() {
  printf '\n== %4d s  %s\n' "$SECONDS" "$*" >&2
  "$@"
}

step python -m ingest phantom "$out/phantom" "${phantom[@]}"
step python -m ingest plan "$out/phantom/ingest.yaml" --out "$out/dataset"
step python -m ingest run "$out/dataset" --scheduler processes
step python -m ingest finish "$out/dataset"
for view in patch cube; do
  step python -m shards pack "$out/dataset" --view "$view" --out "$out/shards/$view"
done
launch=(accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no)
same=(--memory-format channels_last) # otherwise timing decides, and the two layouts round differently
step "${launch[@]}" -m trainer resnet18_2d_small --data "$out/shards/patch" --out "$out/2d" "${same[@]}" "${train_2d[@]}"
step "${launch[@]}" -m trainer unet3d_small --data "$out/shards/cube" --out "$out/3d" "${same[@]}" "${train_3d[@]}"
for run in 2d 3d; do
  step python -m trainer predict "$out/$run" --split val test --tta
done
step python -m eval "$out/2d" "$out/3d" --out "$out"
printf '\nDone in %d s. Open %s\n' "$SECONDS" "$out/report.html"
