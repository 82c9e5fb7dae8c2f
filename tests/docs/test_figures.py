"""The README's tables of what was measured are those of the results in benchmarks/cpu/results."""

import pytest
from site_pages import ROOT

from docs.extensions import measurements

TABLES = measurements.of_readme(ROOT)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readme_is_that_of_its_result(name):
    readme = (ROOT / "README.md").read_text()
    assert TABLES[name] in readme, f"expected this table in README.md:\n{TABLES[name]}"
