"""Starts the explorer and a headless Chromium. As a program: exits with 1 where there is no Chromium."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of the browser: the environment variable CHROMIUM, else the first of its names on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def explorer(*arguments: str) -> Iterator[str]:
    """The address, with a slash at its end, of an explorer of its own process."""
    command = [sys.executable, "-m", "softmax_ext.explorer", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            address = re.search(r"http://\S+/", line)
            assert address, f"expected the explorer's address, got {line!r}"
            yield address[0]
        finally:
            process.terminate()


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, which CI often is.
        yield playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])


if __name__ == "__main__":
    sys.exit(0 if chromium() else 1)
