#!/usr/bin/env bash
# What one wants to know from a GPU, in slices of at most nine minutes: bash benchmarks/gpu.sh [tests|stages|paper|tokenizer|speed|eval|demo|all] [FOLDER]
# A slice whose result is in FOLDER already is skipped, so the same command goes on after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
slice="${1:-all}"
out="${2:-benchmarks/results}"
python="${PYTHON:-python3}"
mkdir -p "$out"

run() { # name, command...
  local name="$1"
  shift
  if [[ "$slice" != all && "$slice" != "$name" ]]; then return; fi
  if [[ -e "$out/gpu-$name.json" ]]; then
    echo "gpu.sh: $out/gpu-$name.json is there, skipping $name"
    return
  fi
  echo "gpu.sh: $name"
  timeout 540 "$@"
}

gpu_tests() {
  "$python" -m pytest -q -m gpu
  "$python" - "$out/gpu-tests.json" <<'PY'
import sys

import torch
from runtime.run import machine, now, versions, write_json

write_json(sys.argv[1], {"command": "pytest -m gpu", "passed": True, "created": now(), "gpu": torch.cuda.get_device_name(),
                         "machine": machine(), "versions": versions()})
PY
}

gpu_demo() { # the demo at 64 pixels with more steps; every command resumes
  local runs="$out/gpu-runs"
  "$python" -m tokenizer.train --preset demo --data moving_shapes --size 64 --batch-size 64 --steps 6000 --name tokenizer --runs-dir "$runs"
  "$python" -m tokenizer.encode --tokenizer "$runs/tokenizer" --out "$runs/latents.h5" --batch-size 256
  "$python" -m generator.train --preset demo --latents "$runs/latents.h5" --batch-size 256 --steps 10000 --name generator --runs-dir "$runs"
  "$python" -m eval.fvd --run "$runs/generator" --samples 2048 --out "$out/gpu-demo.json"
}

export -f gpu_tests gpu_demo
export python out
run tests bash -euo pipefail -c gpu_tests
run stages "$python" -m benchmarks.stages --device cuda --out "$out/gpu-stages.json"
run paper "$python" -m benchmarks.paper_scale --out "$out/gpu-paper.json"
run tokenizer "$python" -m benchmarks.tokenizer --device cuda --size 256 --out "$out/gpu-tokenizer.json"
run speed "$python" -m eval.speed --tokenizers cogvideox,iv-vae,wf-vae-l,hunyuanvideo,wan2.1,wan2.2,ssvae --weights random --device cuda --warmup 2 --repeats 5 --train-steps 3 --rounds 1 --out "$out/gpu-speed.json"
run eval "$python" -m benchmarks.eval --device cuda --clips 512 --out "$out/gpu-eval.json"
run demo bash -euo pipefail -c gpu_demo
