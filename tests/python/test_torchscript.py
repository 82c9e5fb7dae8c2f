"""TorchScript: functions and modules are scripted, saved, and loaded where only the library of operators is."""

import os
import subprocess
import sys

import pytest
import torch
from operators import CLOSE, random_logits

import softmax_ext
from softmax_ext import nn

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

#: Calls every module that was saved, with the inputs that were saved, forward and backward, and trains one.
LOADER = """
import sys
import torch
library, folder = sys.argv[1:]
torch.ops.load_library(library)
assert "softmax_ext" not in sys.modules
torch.use_deterministic_algorithms(True)
results = {}
for name, inputs in torch.load(folder + "/inputs.pt").items():
    module = torch.jit.load(f"{folder}/{name}.pt")
    for _ in range(3):  # TorchScript profiles two calls and runs optimized code from the third
        module.zero_grad()
        inputs[0].grad = None
        value = module(*inputs)
        (value ** 3).sum().backward()
    results[name] = [value.detach(), inputs[0].grad, *(p.grad for p in module.parameters())]

losses = []
model = torch.jit.load(folder + "/classifier.pt")
x, target = torch.load(folder + "/data.pt")
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(20):
    optimizer.zero_grad()
    loss = model(x, target)
    loss.backward()
    optimizer.step()
    losses.append(loss.detach())
torch.save((results, losses), folder + "/results.pt")
"""

# Scripted functions name their operator: one per operator and kind of temperature.


def softmax(x: torch.Tensor):
    return torch.ops.softmax_ext.softmax(x, 1)


def softmax_number(x: torch.Tensor, temperature: float):
    return torch.ops.softmax_ext.softmax(x, 1, temperature=temperature)


def softmax_tensor(x: torch.Tensor, temperature: torch.Tensor):
    return torch.ops.softmax_ext.softmax(x, 1, temperature=temperature)


def log_softmax(x: torch.Tensor):
    return torch.ops.softmax_ext.log_softmax(x, 1)


def log_softmax_number(x: torch.Tensor, temperature: float):
    return torch.ops.softmax_ext.log_softmax(x, 1, temperature=temperature)


def log_softmax_tensor(x: torch.Tensor, temperature: torch.Tensor):
    return torch.ops.softmax_ext.log_softmax(x, 1, temperature=temperature)


def logsumexp(x: torch.Tensor):
    return torch.ops.softmax_ext.logsumexp(x, [1])


def logsumexp_number(x: torch.Tensor, temperature: float):
    return torch.ops.softmax_ext.logsumexp(x, [1], temperature=temperature)


def logsumexp_tensor(x: torch.Tensor, temperature: torch.Tensor):
    return torch.ops.softmax_ext.logsumexp(x, [1], temperature=temperature)


SCRIPTED = [
    (softmax, torch.softmax, None),
    (softmax_number, torch.softmax, 0.7),
    (softmax_tensor, torch.softmax, "tensor"),
    (log_softmax, torch.log_softmax, None),
    (log_softmax_number, torch.log_softmax, 0.7),
    (log_softmax_tensor, torch.log_softmax, "tensor"),
    (logsumexp, torch.logsumexp, None),
    (logsumexp_number, torch.logsumexp, 0.7),
    (logsumexp_tensor, torch.logsumexp, "tensor"),
]


@pytest.mark.parametrize(("function", "torch_function", "temperature"), SCRIPTED)
def test_a_scripted_function_has_the_values_and_gradients_of_torch(function, torch_function, temperature):
    scripted = torch.jit.script(function)
    x = random_logits((3, 4)).requires_grad_()
    arguments = [] if temperature is None else [0.7]
    leaves = [x]
    if temperature == "tensor":
        arguments = [torch.tensor([[0.5], [0.7], [1.3]], dtype=torch.float64, requires_grad=True)]
        leaves += arguments
    for _ in range(3):  # the third call runs optimized code
        actual = scripted(x, *arguments)
        expected = torch_function(x / arguments[0] if arguments else x, 1)
        torch.testing.assert_close(actual, expected, **CLOSE)
        torch.testing.assert_close(
            torch.autograd.grad((actual**3).sum(), leaves),
            torch.autograd.grad((expected**3).sum(), leaves),
            **CLOSE,
        )


def test_a_scripted_tensor_temperature_takes_the_overload_that_keeps_its_gradient():
    graph = torch.jit.script(softmax_tensor).graph
    (node,) = [node for node in graph.nodes() if node.kind() == "softmax_ext::softmax"]
    assert "Tensor? temperature" in node.schema()
    graph = torch.jit.script(softmax_number).graph
    (node,) = [node for node in graph.nodes() if node.kind() == "softmax_ext::softmax"]
    assert "float temperature" in node.schema()


def test_a_scripted_cross_entropy_has_the_value_and_gradient_of_torch():
    @torch.jit.script
    def loss(x: torch.Tensor, target: torch.Tensor):
        return torch.ops.softmax_ext.cross_entropy(x, target, reduction=2)

    x, target = random_logits((4, 5)).requires_grad_(), torch.tensor([4, -100, 0, 2])
    for _ in range(3):
        actual = loss(x, target)
        expected = torch.nn.functional.cross_entropy(x, target, reduction="sum")
        torch.testing.assert_close(actual, expected, **CLOSE)
        torch.testing.assert_close(torch.autograd.grad(actual, x), torch.autograd.grad(expected, x), **CLOSE)


class Classifier(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3, dtype=torch.float64)
        self.loss = loss

    def forward(self, x: torch.Tensor, target: torch.Tensor):
        return self.loss(self.linear(x), target)


def temperatures():
    return {
        "none": None,
        "number": 0.7,
        "buffer": torch.tensor([[0.5], [0.7], [1.3]], dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64)),
    }


def modules():
    """Name: ours, and torch's functions of the same."""
    pairs = {}
    for name, module, function in (
        ("Softmax", nn.Softmax, torch.softmax),
        ("LogSoftmax", nn.LogSoftmax, torch.log_softmax),
    ):
        for kind, temperature in temperatures().items():
            divisor = 1.0 if temperature is None else temperature
            pairs[f"{name}_{kind}"] = (
                module(1, temperature=temperature),
                lambda x, function=function, divisor=divisor: function(x / divisor, 1),
            )
    for reduction in ("none", "mean", "sum"):
        pairs[f"CrossEntropyLoss_{reduction}"] = (
            nn.CrossEntropyLoss(ignore_index=1, reduction=reduction),
            torch.nn.CrossEntropyLoss(ignore_index=1, reduction=reduction),
        )
    return pairs


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What a process that knows the library alone made of our modules; and what they were, with their inputs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scripted")
    ours, inputs = modules(), {}
    for name, (module, _) in ours.items():
        torch.jit.script(module).save(folder / f"{name}.pt")
        x = random_logits((3, 4)).requires_grad_()
        inputs[name] = (x, torch.tensor([2, 1, 0])) if name.startswith("CrossEntropy") else (x,)
    torch.save(inputs, folder / "inputs.pt")
    classifier = Classifier(nn.CrossEntropyLoss())
    torch.jit.script(classifier).save(folder / "classifier.pt")
    data = random_logits((12, 4)), torch.arange(12) % 3
    torch.save(data, folder / "data.pt")
    # Without the source tree on its path; that the package is not loaded there is asserted.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    completed = subprocess.run(
        [sys.executable, "-P", "-c", LOADER, softmax_ext.library_path, str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr
    results, losses = torch.load(folder / "results.pt")
    return ours, inputs, results, classifier, data, losses


@pytest.mark.parametrize("name", modules())
def test_a_module_that_was_saved_gives_torchs_results_where_only_the_library_is_loaded(loaded, name):
    ours, inputs, results, *_ = loaded
    module, reference = ours[name]
    x = inputs[name][0].detach().clone().requires_grad_()
    parameters = list(module.parameters())
    assert len(parameters) == name.endswith("parameter")
    expected = reference(x, *inputs[name][1:])
    gradients = torch.autograd.grad((expected**3).sum(), [x, *parameters])
    assert len(results[name]) == 2 + len(parameters)
    torch.testing.assert_close(results[name], [expected.detach(), *gradients], **CLOSE)


def test_a_classifier_trains_where_only_the_library_is_loaded(loaded):
    *_, classifier, (x, target), losses = loaded
    weight = classifier.linear.weight.detach().clone().requires_grad_()
    bias = classifier.linear.bias.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=0.5)
    expected = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, weight, bias), target)
        loss.backward()
        optimizer.step()
        expected.append(loss.detach())
    assert expected[-1] < expected[0] - 0.1
    torch.testing.assert_close(losses, expected, **CLOSE)
