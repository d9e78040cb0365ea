#!/usr/bin/env bash
# honed against `transformers serve --continuous-batching`: the same model, type, prompts and load, in turn.
#   benchmarks/transformers_serve.sh [DTYPE] [ROUNDS]     prints a table of medians; about 5 minutes a round on 2 cores
set -euo pipefail
cd "$(dirname "$0")/.."
dtype=${1:-float32} rounds=${2:-3} port=8765
model=$(.venv/bin/honed pull smollm2-135m-instruct | tail -n 1)
results=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$results"' EXIT

measure() { # NAME MODEL_ID COMMAND...
  local name=$1 id=$2
  shift 2
  "$@" >"$results/$name.log" 2>&1 &
  server=$!
  until curl -sf "http://127.0.0.1:$port/health" >/dev/null; do
    kill -0 "$server" 2>/dev/null || { cat "$results/$name.log" >&2; exit 1; }
    sleep 0.5
  done
  .venv/bin/honed bench "http://127.0.0.1:$port" --model "$id" --concurrency 1,4,16 --requests 16 --max-tokens 48 \
    --warmup 2 --json - >>"$results/$name.jsonl" 2>/dev/null
  kill -TERM "$server" && wait "$server" || true
  server=
}

for _ in $(seq "$rounds"); do
  measure honed honed .venv/bin/honed serve --model "$model" --dtype "$dtype" --port $port
  measure transformers "$model" env HF_HUB_OFFLINE=1 .venv/bin/transformers serve "$model" --continuous-batching \
    --dtype "$dtype" --device auto --host 127.0.0.1 --port $port
done
.venv/bin/python benchmarks/medians.py "$results"/honed.jsonl "$results"/transformers.jsonl
