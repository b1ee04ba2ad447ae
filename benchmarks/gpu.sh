#!/usr/bin/env bash
# What one wants to know from a GPU: bash benchmarks/gpu.sh [--slices=generator,training] [--in-all=9] [--out=FOLDER]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
