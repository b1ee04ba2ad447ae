"""Run a training with NaN where a test wants it: `poison.py PLACE RANKS STEPS command …`.

PLACE is "input", "loss", "gradient" or "nowhere"; RANKS and STEPS are comma-separated: the processes that see it, and
the updates, counted from 1 in this process. Beside that, `weights-<rank>.txt` gets a digest of the weights after every
update.
"""

import hashlib
import os
import runpy
import sys
from pathlib import Path

import generator.rectified_flow
import tokenizer.stages
from runtime import parallel
from runtime.trainer import Trainer

place, ranks, steps = sys.argv[1:4]
rank = os.environ.get("RANK", "0")
poisoned_steps = {int(step) for step in steps.split(",")} if rank in ranks.split(",") else set()
updates = 0  # finished ones


def factor(where: str) -> float:
    """What to multiply with: NaN in the place and at the steps that were asked for, else one."""
    return float("nan") if where == place and updates + 1 in poisoned_steps else 1.0


def poison_input(to_float=tokenizer.stages.to_float):
    tokenizer.stages.to_float = lambda video: to_float(video) * factor("input")


def poison_loss(tokenizer_loss=tokenizer.stages.tokenizer_loss, flow_loss=generator.rectified_flow.flow_loss):
    def ours(*arguments, **named):
        loss, terms = tokenizer_loss(*arguments, **named)
        return loss * factor("loss"), terms

    tokenizer.stages.tokenizer_loss = ours
    generator.rectified_flow.flow_loss = lambda *a, **named: flow_loss(*a, **named) * factor("loss")


def poison_gradient_and_watch(begin=Trainer.__init__, update=Trainer.update):
    def hooked(self, *arguments, **named):
        begin(self, *arguments, **named)
        if place == "gradient":
            self.trained[-1].register_hook(lambda gradient: gradient * factor("gradient"))

    def watched(self, *arguments):
        global updates
        result = update(self, *arguments)
        updates += 1
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parallel.whole(parameter).contiguous().numpy().tobytes())
        with open(Path(f"weights-{rank}.txt"), "a") as file:
            file.write(digest.hexdigest()[:16] + "\n")
        return result

    Trainer.__init__, Trainer.update = hooked, watched


poison_input()
poison_loss()
poison_gradient_and_watch()
sys.argv = sys.argv[4:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
