"""A few examples of what properties.py says of every public operator; ``make soak`` runs them for minutes."""

from pathlib import Path

import argument_fuzz
import loss_properties  # noqa: F401  (adds its own to PROPERTIES)
import pytest
import torch
from backend import cpu_kernels_only
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from properties import PROPERTIES

pytestmark = cpu_kernels_only  # the executor would take minutes


def public_operators():
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("softmax_ext::")}
    return {name.split("::")[1] for name in names if "::_" not in name}


def test_every_public_operator_has_its_property():
    assert set(PROPERTIES) == public_operators()


@pytest.mark.parametrize("name", PROPERTIES)
def test_any_call_gives_what_float64_gives(name):
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        PROPERTIES[name](data.draw)

    check()


def test_arguments_of_any_kind_are_taken_or_refused_with_a_clear_error():
    report = argument_fuzz.in_a_process(seed=0, calls=12 * len(argument_fuzz.overloads()))
    assert report["findings"] == []
    # Most calls get through to a kernel.
    assert sum(report["refused"].values()) < 0.6 * sum(report["counts"].values())


# That the test above can fail.


PLANTED = {
    "self was written to": lambda x: x.zero_() + 1,
    "INTERNAL ASSERT": lambda x: raising(RuntimeError("INTERNAL ASSERT FAILED")),
    "KeyError": lambda x: raising(KeyError("dim")),
    "other bits": lambda x: torch.rand_like(x),
    "other strides": lambda x: x * x.stride(-1),
    "on meta": lambda x: x.unsqueeze(0) if x.is_meta else x * 1,
}


def raising(error):
    raise error


@pytest.mark.parametrize("finding", PLANTED)
def test_the_fuzz_finds_what_is_wrong(finding):
    library = torch.library.Library("softmax_ext", "FRAGMENT")
    library.define("planted(Tensor self) -> Tensor")
    for key in ("CPU", "Meta"):
        library.impl("planted", PLANTED[finding], key)
    try:
        report = argument_fuzz.run([torch.ops.softmax_ext.planted.default], seed=0, first=0, calls=20)
    finally:
        library._destroy()
    assert any(finding in found for found in report["findings"]), report


def test_the_fuzz_names_the_call_that_ends_the_process_and_goes_on(tmp_path):
    program = tmp_path / "crash.py"
    program.write_text(
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import argument_fuzz\n"
        "call, made = argument_fuzz.finding_of, []\n"
        "argument_fuzz.finding_of = lambda *call_of: made.append(0) or (os.abort() if len(made) == 3 else call(*call_of))\n"
        "argument_fuzz.main()\n"
    )
    report = argument_fuzz.in_a_process(seed=0, calls=5, program=str(program))
    (finding,) = report["findings"]
    assert "--first 2 --calls 1" in finding
    assert "exit status -6" in finding
    assert sum(report["counts"].values()) == 2
