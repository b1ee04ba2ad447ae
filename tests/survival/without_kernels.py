"""Run a command whose `--compile` stops before Inductor builds kernels, which takes half a minute: what is kept for the
backward pass is chosen by its partitioner all the same. `without_kernels.py command …`; says how much was compiled.
"""

import runpy
import sys

import torch

from runtime import parallel


def compile_blocks(model, genuine=parallel.compile_blocks):
    genuine(model, backend="aot_eager_decomp_partition")


parallel.compile_blocks = compile_blocks
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(f"compiled graphs: {torch._dynamo.utils.counters['stats']['unique_graphs']}")
