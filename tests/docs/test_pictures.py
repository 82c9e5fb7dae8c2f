"""The README's pictures are what ``make pictures`` draws, and say so."""

import re
import subprocess
import sys

import pytest
from site_pages import ROOT

#: Drawn by matplotlib, whose version the extra ``docs`` fixes: the same bytes on every machine. Module and arguments.
DRAWN = {
    "benchmarks/cpu/quick.png": ("benchmarks.cpu.chart", "benchmarks/cpu/results/quick.json"),
    "examples/newsgroups/calibration.png": ("examples.newsgroups.pictures",),
}
#: Made in a browser, whose version and fonts are the machine's: tests/browser compares it.
PHOTOGRAPHED = {"docs/explorer.png"}


def test_every_picture_of_the_readme_is_drawn_by_the_command_in_its_caption():
    readme = (ROOT / "README.md").read_text()
    pictures = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)\n\n([^\n]+)", readme, re.MULTILINE)
    assert {path for path, _ in pictures} == DRAWN.keys() | PHOTOGRAPHED
    assert len(pictures) == readme.count("![")
    for path, caption in pictures:
        assert "`make pictures`" in caption, f"expected the command below {path}, got {caption!r}"
    recipe = re.search(r"^pictures:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    for path, command in DRAWN.items():
        assert f"-m {' '.join(command)} {path}" in recipe
    for path in PHOTOGRAPHED:
        assert path in recipe


@pytest.mark.parametrize("picture", DRAWN)
def test_a_picture_has_the_bytes_that_its_command_draws(picture, tmp_path):
    module, *arguments = DRAWN[picture]
    drawn = tmp_path / "drawn.png"
    subprocess.run([sys.executable, "-m", module, *arguments, str(drawn)], cwd=ROOT, check=True)
    same = drawn.read_bytes() == (ROOT / picture).read_bytes()
    assert same, f"{picture} is not what 'make pictures' draws: run it, and look at what changed"
