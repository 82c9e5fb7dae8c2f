"""That AddressSanitizer sees what the operators read and write: ``make test-asan`` runs it."""

import subprocess
import sys

import pytest

BEYOND = """
import numpy, torch, softmax_ext
array = numpy.zeros(1 << 16, numpy.float32)
length = (1 << 16) + {beyond}
x = torch.from_numpy(numpy.lib.stride_tricks.as_strided(array, (length,), (4,)))
{call}
print("the end")
"""
CALLS = {
    "read": "softmax_ext.logsumexp(x, 0)",
    "write": "softmax_ext.softmax(torch.zeros(length), 0, out=x)",
    "read by columns": "softmax_ext.softmax(x.view(-1, 64), 0)",
}


@pytest.mark.parametrize("beyond", [0, 64])
@pytest.mark.parametrize("name", CALLS)
def test_elements_beyond_the_memory_of_a_tensor_are_reported(name, beyond):
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEYOND.format(beyond=beyond, call=CALLS[name])],
        capture_output=True,
        text=True,
    )
    assert ("ERROR: AddressSanitizer" in shown.stderr) == (beyond > 0), shown.stderr
    assert (shown.stdout == "the end\n") == (beyond == 0)
