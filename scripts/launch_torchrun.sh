#!/usr/bin/env bash
# Start a run with torchrun: one process for each GPU. Everything after the script's name goes to the run.
#
#   scripts/launch_torchrun.sh experiment=swinv2_b_mim data.path=SHARDS strategy=ddp        one machine, all its GPUs
#   NNODES=4 HEAD=node0:29500 RUN_ID=b_mim scripts/launch_torchrun.sh ... output_dir=RUN    the same line on every node
#
#   RUN       pretrain (default) or finetune
#   NNODES    machines (1)
#   PER_NODE  processes on each: a number, or gpu (default) for all GPUs
#   HEAD      host:port of the machine where the others meet; any of them, reachable from all
#   RUN_ID    a name of this run, the same on every machine
#   ADDR      this machine's address as the others reach it; needed where its host name leads elsewhere
#   RESTARTS  how often torchrun starts all processes again after a failure (0); add output_dir=RUN resume=auto
set -euo pipefail

if [[ "${NNODES:=1}" == 1 ]]; then
  meet=(--standalone)
else
  meet=(--rdzv_backend=c10d "--rdzv_endpoint=${HEAD:?host:port}" "--rdzv_id=${RUN_ID:?name of the run}")
  if [[ -n "${ADDR:-}" ]]; then
    # torchrun would look for HEAD among the addresses of its host name only
    meet+=("--local_addr=$ADDR" "--rdzv_conf=is_host=$([[ "$ADDR" == "${HEAD%:*}" ]] && echo true || echo false)")
  fi
fi
exec torchrun "--nnodes=$NNODES" "--nproc_per_node=${PER_NODE:-gpu}" "--max_restarts=${RESTARTS:-0}" "${meet[@]}" \
  -m "${RUN:-pretrain}" "$@"
