"""What the README says of what was measured is what the results in benchmarks/cpu/results say."""

import pytest
from site_pages import ROOT

from docs.extensions import measurements

FIGURES = measurements.of_readme(ROOT)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_readme_are_those_of_their_result(name):
    # Lines of text may break anywhere, those of tables end where they do.
    readme = (ROOT / "README.md").read_text()
    expected = FIGURES[name]
    if not expected.startswith("|"):
        readme = " ".join(readme.split())
    assert expected in readme, f"expected in README.md:\n{expected}"
