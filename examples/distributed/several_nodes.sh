#!/usr/bin/env bash
# Several machines of eight GPUs, without a scheduler: start this on each of them, with the same
# NODES and MAIN (name or address of the first machine), and NODE from 0 to NODES - 1.
# Usage: NODES=4 NODE=0 MAIN=10.0.0.1 several_nodes.sh ddp|fsdp2|zero3 MODEL DATA OUTPUT [options]
set -euo pipefail
cd "$(dirname "$0")/../.."

case "$1" in
  ddp)
    torchrun --nnodes "$NODES" --node-rank "$NODE" --nproc-per-node 8 \
      --rdzv-backend c10d --rdzv-endpoint "$MAIN:29500" --rdzv-id mm1 --no-python \
      mm1 pretrain mm1-pretrain --model "$2" --data "$3" --output "$4" "${@:5}"
    ;;
  fsdp2 | zero3)
    accelerate launch --config_file "examples/distributed/$1.yaml" \
      --num_machines "$NODES" --machine_rank "$NODE" --num_processes "$((8 * NODES))" \
      --main_process_ip "$MAIN" --main_process_port 29500 --no_python \
      mm1 pretrain mm1-pretrain --model "$2" --data "$3" --output "$4" "${@:5}"
    ;;
  *)
    echo "The first argument is '$1', but it must be ddp, fsdp2 or zero3." >&2
    exit 2
    ;;
esac
