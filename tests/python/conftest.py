import pytest
import torch
from backend import DEVICE

# Before the tests' modules, which make tensors too.
torch.set_default_device(DEVICE if DEVICE != "cpu" else None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
