#!/usr/bin/env bash
# One GPU. Usage: one_gpu.sh MODEL DATA OUTPUT [options of mm1 pretrain]
set -euo pipefail

mm1 pretrain mm1-pretrain --model "$1" --data "$2" --output "$3" "${@:4}"
