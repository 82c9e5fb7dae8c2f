import pytest
import torch
from backend import DEVICE


@pytest.fixture(autouse=True)
def _seed_and_device():
    torch.set_default_device(DEVICE if DEVICE != "cpu" else None)
    torch.manual_seed(0)
