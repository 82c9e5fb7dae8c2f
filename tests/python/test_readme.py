"""The example of the README prints what its comments say."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_prints_what_it_says():
    example = re.search(r"```python\n(import.*?)```", README.read_text(), re.DOTALL).group(1)
    expected = re.findall(r"print\(.*\)  # (.*)", example)
    assert len(expected) == 3
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example, {})
    assert printed.getvalue().splitlines() == expected
