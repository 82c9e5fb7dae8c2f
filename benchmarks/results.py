"""What a benchmark measured, as a file: ``about``, the lines that a figure needs beside it, and ``lines``, the figures.

Those in benchmarks/cpu/results are part of the sources: documents and pictures are made from them.
"""

import json
from pathlib import Path


def save(path: Path, about: list[str], lines: list[dict]) -> None:
    """``path``: without suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"about": about, "lines": lines}, indent=1) + "\n")


def load(path: Path) -> dict:
    return json.loads(path.read_text())
