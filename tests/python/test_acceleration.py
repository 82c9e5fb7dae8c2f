"""accelerate(): what is left to torch, where it holds, under compilers, and of models."""

import copy
import pickle
import threading
import warnings
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from operators import random_logits
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from softmax_ext import accelerate, acceleration

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


# What is left to torch


class Wrapped(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs)


X, TARGET = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 0, 3])

#: What is called, and the reason that is reported.
LEFT = {
    "integers": (lambda: torch.softmax(TARGET, 0), "dtype int64"),
    "complex numbers": (lambda: torch.softmax(X.to(torch.complex64), 0), "dtype complex64"),
    "a complex result": (lambda: torch.log_softmax(X, 0, torch.complex64), "dtype complex64"),
    "float8": (lambda: F.softmax(X.to(torch.float8_e4m3fn), 0), "dtype float8_e4m3fn"),
    "a sparse tensor": (lambda: torch.softmax(X.to_sparse(), 0).to_dense(), "layout sparse_coo"),
    "a sparse row": (lambda: torch.logsumexp(X.to_sparse_csr(), 0), "layout sparse_csr"),
    "nested tensors": (
        lambda: torch.softmax(torch.nested.nested_tensor([X, X]), 2).to_padded_tensor(0),
        "nested tensor",
    ),
    "jagged tensors": (
        lambda: torch.softmax(torch.nested.nested_tensor([X, X], layout=torch.jagged), 2).values(),
        "subclass NestedTensor",
    ),
    "a subclass": (lambda: F.log_softmax(X.as_subclass(Wrapped), 0), "subclass Wrapped"),
    "a masked tensor": (
        lambda: F.softmax(torch.masked.masked_tensor(X, X > 0), 1).to_tensor(0),
        "subclass MaskedTensor",
    ),
    "a result to write to": (lambda: torch.logsumexp(X, 0, out=torch.empty(4)), "out"),
    "an empty list of dims": (lambda: torch.logsumexp(X, ()), "no dim"),
    "the name of a dim": (
        lambda: torch.softmax(X, "classes"),
        "dim of type str" if hasattr(torch.Tensor, "names") else None,
    ),
    "another dtype of weights": (
        lambda: F.cross_entropy(X, TARGET, torch.ones(4, dtype=torch.float64)),
        "weight of dtype float64",
    ),
    "an int32 target": (lambda: F.cross_entropy(X, TARGET.int()), "target of dtype int32"),
    "probabilities of another dtype": (lambda: F.cross_entropy(X, X.double().square()), "target of dtype float64"),
    "integer logits": (lambda: F.cross_entropy(TARGET, TARGET), "dtype int64"),
    "a target out of range": (lambda: F.cross_entropy(X, TARGET + 1), "IndexError"),
    "a target of another batch": (lambda: F.cross_entropy(X, TARGET[:2]), "ValueError"),
    "another reduction": (lambda: F.cross_entropy(X, TARGET, reduction="most"), "ValueError"),
    "smoothing beyond 1": (lambda: F.cross_entropy(X, TARGET, label_smoothing=1.5), "RuntimeError"),
    "a dim out of range": (lambda: X.softmax(2), "IndexError"),
    "another type": (lambda: F.softmax(X, torch.tensor(0)), "dim of type Tensor"),
    # Errors of Python and of torch's bindings, before any function runs.
    "no tensor": (lambda: torch.softmax([1.0], 0), None),
    "an argument too many": (lambda: torch.softmax(X, 0, None, X), None),
    "an unknown argument": (lambda: F.softmax(X, 0, temperature=2.0), None),
}


def outcome(function):
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_ours_is_torchs_to_the_word_of_its_errors(case):
    function, reason = LEFT[case]
    expected = outcome(function)
    with accelerate() as record:
        actual = outcome(function)
        assert len(_get_current_function_mode_stack()) == 1
    assert not record.taken
    assert len(record.fell_back) == (reason is not None)
    for (_, given), count in record.fell_back.items():
        assert given.startswith(reason)
        assert count == 1
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    else:
        assert actual == expected


def test_a_device_without_our_kernels_is_torchs(monkeypatch):
    monkeypatch.setattr(acceleration, "_DEVICES", ("meta",))
    with accelerate() as record:
        torch.softmax(X, 0)
    assert record.fell_back == Counter({("softmax", "device cpu"): 1})


def test_running_out_of_memory_is_not_tried_again(monkeypatch):
    def exhausted(*arguments, **options):
        raise torch.OutOfMemoryError("ours")

    entry = acceleration._REPLACEMENTS[torch.softmax]
    broken = acceleration._Replacement(entry.name, entry.refusal, exhausted)
    monkeypatch.setitem(acceleration._REPLACEMENTS, torch.softmax, broken)
    with accelerate() as record, pytest.raises(torch.OutOfMemoryError, match="ours"):
        torch.softmax(X, 0)
    assert not record.fell_back


def test_the_warning_of_an_implicit_dim_is_torchs_and_names_the_line_that_called():
    def warned():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = F.softmax(X), F.log_softmax(X), F.softmin(X)
        return results, [(str(warning.message), warning.filename, warning.lineno) for warning in caught]

    expected_results, expected = warned()
    with accelerate() as record:
        results, actual = warned()
    assert record.taken == Counter(softmax=1, log_softmax=1, softmin=1)
    assert len(expected) == 3
    assert actual == expected
    torch.testing.assert_close(results, expected_results)


def test_the_report_says_what_was_taken_and_what_was_not():
    with accelerate() as record:
        for _ in range(3):
            torch.softmax(X, 0)
        F.cross_entropy(X, TARGET)
        torch.logsumexp(X.to(torch.complex64), 0)
        torch.add(X, X)
    assert record.report() == (
        "on softmax_ext: 4 calls\n  softmax 3\n  cross_entropy 1\non torch: 1 call\n  logsumexp 1: dtype complex64"
    )


# Where it holds


def test_it_holds_in_its_block_alone_and_nested():
    from torch.nn.functional import softmax  # by name, before

    with accelerate() as outer:
        softmax(X, 0)
        with accelerate() as inner:
            softmax(X, 0)
            torch.logsumexp(X.to(torch.complex64), 0)  # left by the inner one, and then by the outer
        X.softmax(0)
    softmax(X, 0)
    assert (outer.taken["softmax"], inner.taken["softmax"]) == (2, 1)
    assert (sum(outer.fell_back.values()), sum(inner.fell_back.values())) == (1, 1)
    with pytest.raises(ZeroDivisionError), accelerate():
        1 / 0  # noqa: B018
    assert not _get_current_function_mode_stack()


def test_a_block_may_be_entered_again():
    record = accelerate()
    for _ in range(2):
        with record:
            torch.softmax(X, 0)
    assert record.taken["softmax"] == 2


def test_it_holds_in_its_thread_alone_and_counts_what_many_threads_call():
    counts = []
    with accelerate() as record:
        other = threading.Thread(target=lambda: counts.append(len(_get_current_function_mode_stack())))
        other.start()
        other.join()
    assert counts == [0]
    model = torch.nn.Softmax(1)
    record = accelerate(model)
    threads = [threading.Thread(target=lambda: [model(X) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.taken == Counter(softmax=1600)


def backward_by_grad(loss, x):
    (x.grad,) = torch.autograd.grad(loss, x)


@pytest.mark.parametrize(
    ("backward", "use_reentrant"),
    [
        (lambda loss, _: loss.backward(), False),
        (lambda loss, _: loss.backward(), True),
        (lambda loss, _: torch.autograd.backward(loss), False),
        (backward_by_grad, False),
    ],
    ids=["method", "method, reentrant", "function", "grad"],
)
def test_what_a_backward_pass_runs_again_is_accelerated_too(backward, use_reentrant):
    x = random_logits((3, 4)).requires_grad_()

    def function(x):
        return F.cross_entropy(torch.softmax(x, 1), TARGET)

    (expected,) = torch.autograd.grad(function(x), x)
    with accelerate() as record:
        backward(checkpoint(function, x, use_reentrant=use_reentrant), x)
    # A checkpoint that is not reentrant stops within the loss, where it has what it needs.
    assert record.taken == Counter(softmax=2, cross_entropy=1 + use_reentrant)
    assert not record.fell_back
    torch.testing.assert_close(x.grad, expected)


def test_functions_of_torch_that_call_softmax_are_entered():
    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    x = X[None].clone().requires_grad_()

    def results():
        torch.manual_seed(1)
        output, weights = attention(x, x, x)
        return output, weights, F.gumbel_softmax(X, hard=True), torch.autograd.grad(output.square().sum(), x)[0]

    expected = results()
    with accelerate() as record:
        actual = results()
        assert len(_get_current_function_mode_stack()) == 1
    assert record.taken == Counter(softmax=2)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("transform", ["grad", "vmap", "jacfwd", "hessian"])
def test_functional_transforms_go_through(transform):
    def function(x):
        total = torch.logsumexp(torch.log_softmax(x, -1).sin(), -1)
        return total if transform == "vmap" else total.sum()

    x = random_logits((3, 4))
    expected = getattr(torch.func, transform)(function)(x)
    with accelerate() as record:
        actual = getattr(torch.func, transform)(function)(x)
    assert record.taken == Counter(log_softmax=1, logsumexp=1)
    torch.testing.assert_close(actual, expected)


@dtypes
def test_results_under_autocast_have_torchs_dtypes(dtype):
    x, weight = X.to(dtype), torch.ones(4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def results():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = [F.cross_entropy(x, TARGET), F.cross_entropy(x, TARGET, weight=weight)]
            return [*losses, F.softmax(x, 1), torch.logsumexp(x, 1), F.log_softmax(x, 1, dtype=torch.float32)]

    expected = results()
    with accelerate() as record:
        actual = results()
    assert record.taken == Counter(cross_entropy=2, softmax=1, logsumexp=1, log_softmax=1)
    assert [result.dtype for result in actual] == [result.dtype for result in expected]


# Compilers


class Capture:
    def __init__(self):
        self.graphs = []

    def __call__(self, graph_module, inputs):
        self.graphs.append([str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"])
        return graph_module

    @property
    def has_ours(self):
        return [any("softmax_ext" in target for target in graph) for graph in self.graphs]


@pytest.fixture(autouse=True)
def _reset_dynamo(request):
    yield
    if "compile" in request.node.name:
        torch._dynamo.reset()


def test_compiled_code_is_traced_as_ours_in_the_block_and_as_torchs_outside():
    def function(x):
        return F.cross_entropy(torch.softmax(x.sin(), 1), TARGET) + x.logsumexp(0).sum() + F.softmin(x, 1).sum()

    capture = Capture()
    compiled = torch.compile(function, backend=capture, fullgraph=True)
    expected = function(X)
    with accelerate() as record:
        for _ in range(3):
            torch.testing.assert_close(compiled(X), expected)
    assert record.taken == Counter(cross_entropy=1, softmax=1, logsumexp=1, softmin=1)  # when it was traced
    torch.testing.assert_close(compiled(X), expected)
    with accelerate():
        compiled(X)
    assert capture.has_ours == [True, False]


def test_a_block_within_compiled_code_compiles_with_what_is_left_to_torch():
    def function(x):
        with accelerate():
            return torch.softmax(x, 1), torch.logsumexp(x.to(torch.complex64), 0).real

    capture = Capture()
    actual = torch.compile(function, backend=capture, fullgraph=True)(X)
    assert capture.has_ours == [True]
    torch.testing.assert_close(actual, function(X))


def test_inductor_compiles_a_model_that_is_accelerated():
    model = Classifier()
    x = torch.randn(3, 4, requires_grad=True)
    expected = torch.autograd.grad(model(x, TARGET % 3), x)
    accelerate(model)
    actual = torch.autograd.grad(torch.compile(model, fullgraph=True)(x, TARGET % 3), x)
    torch.testing.assert_close(actual, expected)


# Models


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.loss = torch.nn.CrossEntropyLoss()

    def forward(self, x, target):
        return self.loss(self.layer(x), target)


def test_a_model_is_accelerated_until_it_is_not():
    model = Classifier()
    keys = list(model.state_dict())
    expected = model(X, TARGET % 3)
    record = accelerate(model)
    for _ in range(2):
        torch.testing.assert_close(model(X, TARGET % 3), expected)
    F.cross_entropy(X, TARGET)  # not the model's
    assert record.taken == Counter(cross_entropy=2)
    assert list(model.state_dict()) == keys
    record.remove()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    model(X, TARGET % 3)
    with accelerate(model) as other:
        model(X, TARGET % 3)
    model(X, TARGET % 3)
    assert (record.taken["cross_entropy"], other.taken["cross_entropy"]) == (2, 1)


def test_a_model_that_raises_leaves_nothing_behind():
    model = Classifier()
    record = accelerate(model)
    with pytest.raises(IndexError, match="out of bounds"):
        model(X, TARGET)
    assert not _get_current_function_mode_stack()

    def refuse(module, arguments):
        raise KeyError

    model.register_forward_pre_hook(refuse, prepend=True)  # before ours
    with accelerate() as outer:
        with pytest.raises(KeyError):
            model(X, TARGET % 3)
        assert len(_get_current_function_mode_stack()) == 1
    assert not _get_current_function_mode_stack()
    assert outer.taken == record.taken == Counter()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_an_accelerated_model_is_one_with_counts_of_its_own(duplicate):
    model = Classifier()
    record = accelerate(model)
    other = duplicate(model)
    torch.testing.assert_close(other(X, TARGET % 3), model(X, TARGET % 3))
    assert record.taken == Counter(cross_entropy=1)
    assert "SoftmaxExt" in other(X, TARGET % 3).grad_fn.name()


def test_what_is_no_module_is_named():
    with pytest.raises(TypeError, match=r"accelerate: expected a torch.nn.Module or None, got builtin_function"):
        accelerate(torch.softmax)


def test_an_interrupted_forward_pass_ends_with_the_acceleration():
    class Interrupted(torch.nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model = Interrupted()
    record = accelerate(model)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            model(X)
    record.remove()
    torch.softmax(X, 1)
    assert not record.taken


def test_uint8_classes_are_taken_where_torch_takes_them():
    target = torch.zeros(2, 3, dtype=torch.uint8)
    with accelerate() as record:
        F.cross_entropy(torch.randn(2, 4), target[:, 0])
        assert record.taken["cross_entropy"] == 1
        with pytest.raises(RuntimeError, match="Byte"):
            F.cross_entropy(torch.randn(2, 4, 3), target)
    assert record.taken["cross_entropy"] == 1
