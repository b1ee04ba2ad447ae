"""What a hostile file holds."""

from __future__ import annotations

from pathlib import Path


class Calls:
    """Unpickled, it calls a function with these arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attack(path: Path) -> Calls:
    """Unpickled, it would write a file."""
    return Calls(open, str(path), "w")
