#!/usr/bin/env bash
# Eight GPUs of one machine. Usage: eight_gpus.sh ddp|fsdp2|zero3 MODEL DATA OUTPUT [options]
set -euo pipefail
cd "$(dirname "$0")/../.."

case "$1" in
  ddp)
    torchrun --standalone --nproc-per-node 8 --no-python \
      mm1 pretrain mm1-pretrain --model "$2" --data "$3" --output "$4" "${@:5}"
    ;;
  fsdp2 | zero3)
    accelerate launch --config_file "examples/distributed/$1.yaml" --no_python \
      mm1 pretrain mm1-pretrain --model "$2" --data "$3" --output "$4" "${@:5}"
    ;;
  *)
    echo "The first argument is '$1', but it must be ddp, fsdp2 or zero3." >&2
    exit 2
    ;;
esac
