"""The README's picture of the explorer shows what the explorer shows.

Not its bytes: they depend on the browser's version and on the machine's fonts. So the pictures are compared as one sees
them from afar, where letters are grey.
"""

from pathlib import Path

import picture
from PIL import Image, ImageChops

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "explorer.png"
REDUCTION = 8
#: Of 255; and the share of the reduced picture that may differ by more.
TOLERANCE, SHARE = 48, 0.03


def test_the_readme_shows_the_explorer_as_it_is(tmp_path, chromium, address):
    drawn = tmp_path / "explorer.png"
    picture.draw(drawn, address, chromium)
    images = [Image.open(path).convert("L") for path in (drawn, COMMITTED)]
    assert images[0].size == images[1].size
    difference = ImageChops.difference(*(image.reduce(REDUCTION) for image in images))
    share = sum(difference.histogram()[TOLERANCE + 1 :]) / (difference.width * difference.height)
    assert share <= SHARE, f"{share:.1%} of docs/explorer.png differs: run 'make pictures', and look at what changed"
