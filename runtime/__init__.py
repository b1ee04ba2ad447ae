"""What any command of this project needs: command line, run directory, checkpoints, EMA, schedules, seeds, logging."""

import importlib
import os
import sys
from collections.abc import Callable, Collection, Mapping

if os.name != "posix":
    sys.exit("error: this needs Linux or macOS; on Windows use WSL 2, with files on its own disk")


def lazily(
    package: str, exports: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562) that imports public names when they are asked for: `--help`
    needs no torch.

    Args:
        exports: Module by name: ".module" of the package, or another's whole name.
        modules: Modules of the package that are public themselves.
    """

    def found(name: str) -> object:
        if name in exports:
            return getattr(importlib.import_module(exports[name], package), name)
        if name in modules:
            return importlib.import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found, lambda: sorted([*exports, *modules])
