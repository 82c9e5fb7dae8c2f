"""What a call is made of: the primitives that it dispatches, and nothing of torch's beside them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import softmax_ext

X = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 3.0, -2.0, 1.0], [5.0, 1.0, 1.5, 2.5]])
TARGET = torch.tensor([1, 0, 3])
PROBABILITIES = torch.tensor([[0.25, 0.5, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
MASK = torch.tensor([True, False, True, True])


class Called(TorchDispatchMode):
    """The operators that were called, without those that change nothing but how a tensor is looked at."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


def loss(**options):
    target = options.pop("target", TARGET)
    return lambda x: softmax_ext.cross_entropy(x, target, **options)


CALLS = {
    "softmax": (lambda x: softmax_ext.softmax(x, 1), ["_softmax"], ["_softmax_backward"]),
    "softmax, temperature and dtype": (
        lambda x: softmax_ext.softmax(x, 1, torch.float32, temperature=0.5),
        ["_softmax"],
        ["_softmax_backward"],
    ),
    "log_softmax": (lambda x: softmax_ext.log_softmax(x, 1), ["_log_softmax"], ["_log_softmax_backward"]),
    "logsumexp": (lambda x: softmax_ext.logsumexp(x, 1), ["_logsumexp"], ["_logsumexp_backward"]),
    "entropy": (lambda x: softmax_ext.entropy(x, 1), ["_entropy"], ["_entropy_backward"]),
    "masked_softmax": (
        lambda x: softmax_ext.masked_softmax(x, MASK, 1),
        ["_masked_softmax"],
        ["_softmax_backward"],
    ),
    "causal_softmax": (lambda x: softmax_ext.causal_softmax(x), ["_masked_softmax"], ["_softmax_backward"]),
} | {
    f"cross_entropy, {name}": (loss(**options), forward, backward)
    for name, options, forward, backward in [
        ("mean", {}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("sum", {"reduction": "sum"}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("none", {"reduction": "none"}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("smoothing", {"label_smoothing": 0.1}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("weights", {"weight": torch.rand(4)}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("z-loss, softcap", {"z_loss": 0.1, "softcap": 5.0}, ["_cross_entropy"], ["_cross_entropy_backward"]),
        ("probabilities", {"target": PROBABILITIES}, ["_cross_entropy"], ["_cross_entropy_backward"]),
    ]
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_primitive_and_its_backward_another(name):
    function, forward, backward = CALLS[name]
    x = X.clone().requires_grad_()
    with Called() as called:
        result = function(x)
    assert called.names == forward
    grad = torch.ones_like(result)
    with Called() as called:
        torch.autograd.grad(result, x, grad)
    assert called.names == backward


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_a_gradient_is_one_primitive(name):
    function, forward, _ = CALLS[name]
    with Called() as called:
        function(X)
    assert called.names == forward
