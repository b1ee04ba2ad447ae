"""The file that a benchmark leaves: results with everything that is needed to repeat them."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.run import command_line, git_commit, machine, now, versions, write_json


def write_benchmark(path: str | Path, results: dict, **facts) -> None:
    """Write results with everything that is needed to repeat them."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": command_line(),
        "created": now(),
        "git_commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    write_json(path, {**about, **facts, "threads": torch.get_num_threads(), "results": results})
