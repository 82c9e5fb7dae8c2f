"""cross_entropy with its options: all pairs of them against the formulas in float64, and the rows that hurt."""

import itertools
import math
import types

import pytest
import reference
import torch
import torch.nn.functional as F

import softmax_ext
from softmax_ext import nn

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CLASSES = 7

# What each option may be. Every pair of values of two options occurs in one of the cases below.
CHOICES = {
    "target": ["int64", "int32", "uint8", "probabilities"],
    "dtype": DTYPES,
    "shape": ["[N, C]", "[N, C, d]", "[N, C, d, e]", "[C]"],
    "weight": [None, torch.float32, torch.float64],
    "label_smoothing": [0.0, 0.1, 1.0],
    "reduction": ["mean", "sum", "none"],
    "temperature": [None, 0.7, "one", "per row"],
    "softcap": [None, 5.0],
    "z_loss": [0.0, 0.01],
    "ignore_index": [-100, 3],
    "empty": ["nan", "zero"],
    "gradient": ["recompute", "forward", "inplace"],
}


def pairwise(choices):
    """Cases that cover all pairs: each is the one, of some tried, that has most pairs not covered yet."""
    generator = torch.Generator().manual_seed(0)
    names = list(choices)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(choices[a]))
        for j in range(len(choices[b]))
    }
    cases = []
    while missing:
        a, i, b, j = min(missing)
        best = set()
        for _ in range(30):
            at = {name: int(torch.randint(len(choices[name]), (), generator=generator)) for name in names}
            at.update({a: i, b: j})
            covered = {pair for pair in missing if at[pair[0]] == pair[1] and at[pair[2]] == pair[3]}
            if len(covered) > len(best):
                best, chosen = covered, at
        missing -= best
        cases.append({name: choices[name][chosen[name]] for name in names})
    return cases


def make(case):
    """Logits, target and keyword arguments."""
    generator = torch.Generator().manual_seed(1)
    shape = {
        "[N, C]": (9, CLASSES),
        "[N, C, d]": (3, CLASSES, 4),
        "[N, C, d, e]": (2, CLASSES, 3, 2),
        "[C]": (CLASSES,),
    }[case["shape"]]
    dim = 0 if len(shape) == 1 else 1
    logits = (3 * torch.randn(shape, generator=generator)).to(case["dtype"])
    if case["target"] == "probabilities":
        target = torch.softmax(torch.randn(shape, generator=generator), dim).to(case["dtype"])
    else:
        rows = shape[:dim] + shape[dim + 1 :]
        target = torch.randint(CLASSES, rows, generator=generator).to(getattr(torch, case["target"]))
        if rows:
            target.view(-1)[:2] = torch.tensor([3, 0])
    options = {name: case[name] for name in ("label_smoothing", "reduction", "softcap", "z_loss", "empty", "gradient")}
    if case["target"] != "probabilities":  # as torch, refused beside them
        options["ignore_index"] = case["ignore_index"]
    if case["weight"] is not None:
        options["weight"] = (torch.rand(CLASSES, generator=generator) + 0.1).to(case["weight"])
    if case["temperature"] is not None:
        size = list(shape)
        size[dim] = 1
        rows_of = {"one": (), "per row": size}.get(case["temperature"])
        options["temperature"] = (
            case["temperature"]
            if rows_of is None
            else torch.rand(rows_of, generator=generator, dtype=torch.float64) + 0.5
        )
    return logits, target, options


# Without what makes log-probabilities of all classes, and with rows that are all ignored.
ONE_PASS = {name: CHOICES[name][:1] for name in ("label_smoothing", "temperature", "softcap", "z_loss")}
ONE_PASS = {**CHOICES, **ONE_PASS, "target": ["int64", "int32", "uint8"]}
ALL_CASES = pairwise(CHOICES) + pairwise(ONE_PASS)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: ", ".join(str(v) for v in case.values()))
def test_all_pairs_of_options_give_what_the_formulas_give(case):
    logits, target, options = make(case)
    leaf = logits.clone().requires_grad_()
    has_probabilities = target.is_floating_point()
    if has_probabilities:
        target.requires_grad_()
    loss = softmax_ext.cross_entropy(leaf * 1, target, **options)
    assert loss.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)

    exact_leaf = logits.double().requires_grad_()
    exact_target = target.detach().double().requires_grad_() if has_probabilities else target
    del options["gradient"]
    expected = reference.cross_entropy(exact_leaf, exact_target, **options)
    unit = torch.finfo(loss.dtype).eps
    scale = max(1, expected.detach().abs().max().item() if expected.numel() else 1)
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=16 * unit * scale, equal_nan=True)

    upstream = torch.linspace(0.5, 2, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].reshape(loss.shape)
    inputs = (leaf, target) if has_probabilities else (leaf,)
    gradients = torch.autograd.grad(loss, inputs, upstream)
    exact_inputs = (exact_leaf, exact_target) if has_probabilities else (exact_leaf,)
    for got, want in zip(gradients, torch.autograd.grad(expected, exact_inputs, upstream.double()), strict=True):
        bound = torch.finfo(got.dtype).eps * want.abs() + 16 * unit * max(1, want.abs().max().item())
        assert ((got.double() - want).abs() <= bound).all()


TARGET = torch.tensor([1, -100, 0, 2])
OPTIONS = [
    {},
    {"weight": torch.tensor([0.5, 2.0, 1.0])},
    {"label_smoothing": 0.2},
    {"temperature": 2.0},
    {"softcap": 3.0},
    {"z_loss": 0.1},
    {
        "label_smoothing": 0.2,
        "weight": torch.tensor([0.5, 2.0, 1.0]),
        "z_loss": 0.1,
        "softcap": 4.0,
        "temperature": 0.5,
    },
]
options_of = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "none")


@options_of
@pytest.mark.parametrize("held", [NAN, INF, -INF])
def test_an_ignored_row_has_no_loss_and_no_gradient_whatever_it_holds(held, options):
    x = torch.randn(4, 3)
    x[1] = held
    x.requires_grad_()
    loss = softmax_ext.cross_entropy(x, TARGET, **options)
    loss.backward()
    expected = softmax_ext.cross_entropy(x.detach()[[0, 2, 3]], TARGET[[0, 2, 3]], **options)
    torch.testing.assert_close(loss.detach(), expected)
    assert x.grad[1].eq(0).all()
    assert x.grad.isfinite().all()
    rows, lse = softmax_ext.cross_entropy_with_logsumexp(x, TARGET, reduction="none", **options)
    assert rows[1] == 0
    assert lse[1] == 0


@options_of
@pytest.mark.parametrize("rows", [0, 3])
def test_a_mean_over_no_row_is_nan_or_0_with_gradient_0(rows, options):
    target = torch.full((rows,), -100)
    for empty, expected in (("nan", NAN), ("zero", 0.0)):
        x = torch.randn(rows, 3, requires_grad=True)
        loss = softmax_ext.cross_entropy(x, target, empty=empty, **options)
        torch.testing.assert_close(loss.detach(), torch.tensor(expected), equal_nan=True)
        loss.backward()
        assert x.grad.eq(0).all()


# There is no infinite logit under a softcap.
@pytest.mark.parametrize("options", [options for options in OPTIONS if "softcap" not in options], ids=str)
def test_a_target_whose_logit_is_minus_infinity_has_an_infinite_loss_and_a_finite_gradient(options):
    x = torch.tensor([[-INF, 1.0, 2.0]], requires_grad=True)
    loss = softmax_ext.cross_entropy(x, torch.tensor([0]), **options)
    assert loss == INF
    loss.backward()
    assert x.grad.isfinite().all()


def test_a_class_that_counts_for_nothing_may_have_a_logit_of_minus_infinity():
    x = torch.tensor([[-INF, 1.0, 2.0]], requires_grad=True)
    for target, options in (
        (torch.tensor([[0.0, 0.5, 0.5]]), {}),
        (torch.tensor([[0.2, 0.4, 0.4]]), {"weight": torch.tensor([0.0, 1.0, 1.0])}),
        (torch.tensor([1]), {"weight": torch.tensor([0.0, 1.0, 1.0]), "label_smoothing": 0.1}),
        (torch.tensor([0]), {"weight": torch.tensor([0.0, 1.0, 1.0]), "reduction": "sum"}),
        (torch.tensor([0]), {"weight": torch.tensor([0.0, 1.0, 1.0]), "reduction": "sum", "label_smoothing": 0.1}),
    ):
        loss = softmax_ext.cross_entropy(x, target, **options)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient[0, 0] == 0


def test_everything_smoothed_leaves_the_target_no_say():
    x = torch.tensor([[-INF, 1.0, 2.0]])
    assert softmax_ext.cross_entropy(x, torch.tensor([0]), label_smoothing=1.0) == INF
    x = torch.randn(3, 4)
    of_any = [softmax_ext.cross_entropy(x, torch.full((3,), t), label_smoothing=1.0) for t in range(4)]
    assert len({loss.item() for loss in of_any}) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{"z_loss": 0.1}, {"label_smoothing": 0.1}, {"temperature": 0.7}], ids=str)
def test_gradients_of_16_bits_are_rounded_once(options, dtype):
    x, target = torch.randn(64, 1000).to(dtype), torch.randint(1000, (64,))

    def gradient(x):
        x = x.requires_grad_()
        return torch.autograd.grad(softmax_ext.cross_entropy(x, target, reduction="sum", **options), x)[0].double()

    exact = gradient(x.double())
    ideal = (exact.to(dtype).double() - exact).norm()
    assert (gradient(x) - exact).norm() <= 1.2 * ideal


def test_no_log_sum_exp_at_a_temperature_of_0():
    x, target = torch.randn(2, 3), torch.tensor([0, 1])
    for call in (
        lambda: softmax_ext.cross_entropy(x, target, temperature=0.0, z_loss=0.1),
        lambda: softmax_ext.cross_entropy_with_logsumexp(x, target, temperature=0.0),
    ):
        with pytest.raises(ValueError, match="expected a temperature > 0 with z_loss or a log-sum-exp, got 0"):
            call()


def test_a_target_is_probabilities_by_its_dtype_alone():
    x = torch.randn(3, 3)
    classes = torch.tensor([0, 2, 1])
    torch.testing.assert_close(
        softmax_ext.cross_entropy(x, F.one_hot(classes, 3).float()), softmax_ext.cross_entropy(x, classes)
    )
    with pytest.raises(RuntimeError, match="expected target of shape"):
        softmax_ext.cross_entropy(x, F.one_hot(classes, 3))
    one = torch.randn(1)
    torch.testing.assert_close(
        softmax_ext.cross_entropy(one, torch.tensor([1.0])), softmax_ext.cross_entropy(one, torch.tensor([0]))
    )


@options_of
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_log_sum_exp_comes_with_the_loss_and_has_a_gradient(reduction, options):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss, lse = softmax_ext.cross_entropy_with_logsumexp(x, TARGET, reduction=reduction, **options)
    torch.testing.assert_close(loss, softmax_ext.cross_entropy(x, TARGET, reduction=reduction, **options))
    logits = x if "softcap" not in options else options["softcap"] * torch.tanh(x / options["softcap"])
    logits = logits / options.get("temperature", 1.0)
    expected = torch.logsumexp(logits, 1) * (TARGET != -100)
    torch.testing.assert_close(lse, expected)
    upstream = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(lse, x, upstream, retain_graph=True), torch.autograd.grad(expected, x, upstream)
    )
    torch.autograd.gradcheck(
        lambda x: softmax_ext.cross_entropy_with_logsumexp(x, TARGET, reduction=reduction, **options), x
    )


def test_gradients_reach_the_temperature_and_the_probabilities_to_the_second_order():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.softmax(torch.randn(3, 4, dtype=torch.float64), 1).requires_grad_()
    temperature = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def loss(x, target, temperature):
        return softmax_ext.cross_entropy(
            x, target, temperature=temperature, label_smoothing=0.1, softcap=4.0, z_loss=0.1
        )

    torch.autograd.gradcheck(loss, (x, target, temperature), check_forward_ad=True)
    torch.autograd.gradgradcheck(loss, (x, target, temperature))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_class_weights_are_taken_in_their_own_dtype(dtype):
    x, target = torch.randn(5, 3, dtype=torch.float64).to(dtype), torch.tensor([0, 1, 2, 1, 0])
    weight = torch.tensor([0.1, 0.7, 1.3], dtype=torch.float32)
    expected = F.cross_entropy(x.double(), target, weight.double())
    torch.testing.assert_close(softmax_ext.cross_entropy(x, target, weight).double(), expected, rtol=1e-6, atol=1e-6)


@options_of
def test_the_module_has_the_functions_options_and_scripts(options):
    x = torch.randn(4, 3, requires_grad=True)
    expected = softmax_ext.cross_entropy(x, TARGET, **options)
    module = nn.CrossEntropyLoss(**options)
    scripted = torch.jit.script(nn.CrossEntropyLoss(**options))
    for loss in (module, scripted):
        result = loss(x, TARGET)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(torch.autograd.grad(result, x), torch.autograd.grad(expected, x, retain_graph=True))


def test_a_temperature_that_is_learned_is_a_parameter_of_the_module():
    module = nn.CrossEntropyLoss(temperature=torch.nn.Parameter(torch.tensor(2.0)))
    assert [name for name, _ in module.named_parameters()] == ["temperature"]
    module(torch.randn(4, 3), TARGET).backward()
    assert module.temperature.grad.abs() > 0


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
@options_of
def test_every_option_compiles(options, dynamic):
    x = torch.randn(4, 3, requires_grad=True)
    function = torch.compile(
        lambda x, t: softmax_ext.cross_entropy(x, t, **options), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    loss, expected = function(x, TARGET), softmax_ext.cross_entropy(x, TARGET, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))


# Language models


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_the_labels_of_a_language_model_are_shifted_and_its_logits_are_not(dtype):
    logits = torch.randn(2, 5, 7, requires_grad=True)
    labels = torch.randint(7, (2, 5))
    if dtype != torch.uint8:
        labels[0, 3] = -100
    loss = softmax_ext.causal_lm_loss(logits, labels.to(dtype))
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1))
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert gradient[:, -1].eq(0).all()


def test_the_logits_of_a_language_model_are_read_where_they_are():
    leaf = torch.randn(2, 5, 7, requires_grad=True)
    logits = leaf * 1
    softmax_ext.causal_lm_loss(logits, torch.randint(7, (2, 5)), gradient="inplace").backward()
    assert torch.equal(logits, leaf.grad)  # where they were is their gradient


def test_batches_that_gradients_are_accumulated_over_are_divided_by_all_of_their_labels():
    logits, labels = torch.randn(4, 5, 7), torch.randint(7, (4, 5))
    whole = softmax_ext.causal_lm_loss(logits, labels)
    for items in (16, torch.tensor(16)):
        halves = sum(
            softmax_ext.causal_lm_loss(logits[part], labels[part], items) for part in (slice(0, 1), slice(1, 4))
        )
        torch.testing.assert_close(halves, whole)


def test_where_no_label_counts_empty_says_what_the_loss_is():
    for items in (0, torch.tensor(0), None):
        for empty, expected in (("nan", NAN), ("zero", 0.0)):
            logits = torch.randn(2, 5, 7, requires_grad=True)
            loss = softmax_ext.causal_lm_loss(logits, torch.full((2, 5), -100), items, empty=empty)
            torch.testing.assert_close(loss.detach(), torch.tensor(expected), equal_nan=True)
            loss.backward()
            assert logits.grad.eq(0).all()


def test_a_models_output_holds_the_logits():
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    expected = softmax_ext.causal_lm_loss(logits, labels)
    for output in ({"logits": logits}, types.SimpleNamespace(logits=logits)):
        assert torch.equal(softmax_ext.causal_lm_loss(output, labels), expected)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (3, 5, 1), (3, 1, 1), (5, 1)], ids=str)
def test_a_temperature_of_positions_is_that_of_their_logits(shape):
    logits, labels = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    temperature = (torch.rand(shape) + 0.5).requires_grad_()
    loss = softmax_ext.causal_lm_loss(logits, labels, temperature=temperature)
    of_positions = temperature.unsqueeze(-1) if shape == (3, 5) else temperature
    scaled = (logits / of_positions)[:, :-1]
    expected = F.cross_entropy(scaled.reshape(-1, 7), labels[:, 1:].reshape(-1))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, temperature), torch.autograd.grad(expected, temperature))


def test_a_language_models_loss_takes_the_options_of_cross_entropy():
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    torch.testing.assert_close(
        softmax_ext.causal_lm_loss(logits, labels, z_loss=0.1, label_smoothing=0.1),
        softmax_ext.cross_entropy(
            logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1), z_loss=0.1, label_smoothing=0.1
        ),
    )


def test_equal_logits_have_the_log_of_their_number_as_loss_under_every_smoothing():
    x = torch.full((2, 50_257), 1e4)
    for smoothing in (0.0, 0.1, 1.0):
        loss = softmax_ext.cross_entropy(x, torch.tensor([0, 50_256]), label_smoothing=smoothing)
        assert math.isclose(loss.item(), math.log(50_257), rel_tol=4e-7)


def test_a_softcap_at_a_limit_of_the_temperature_has_gradient_0():
    x = torch.tensor([[1.0, 2.0, -INF], [0.0, 3.0, 1.0]])
    for temperature in (0.0, INF, torch.tensor([[0.0], [INF]])):
        leaf = x.clone().requires_grad_()
        for way in ("recompute", "forward"):
            loss = softmax_ext.cross_entropy(
                leaf, torch.tensor([1, 0]), temperature=temperature, softcap=5.0, gradient=way
            )
            assert torch.autograd.grad(loss, leaf)[0].eq(0).all()


def test_the_log_sum_exp_of_a_row_of_minus_infinity_has_gradient_0():
    x = torch.tensor([[-INF, -INF], [1.0, 2.0]], requires_grad=True)
    _, lse = softmax_ext.cross_entropy_with_logsumexp(x, torch.tensor([0, 1]), reduction="none")
    (gradient,) = torch.autograd.grad(lse, x, torch.ones(2))
    torch.testing.assert_close(gradient, torch.autograd.grad(softmax_ext.logsumexp(x, 1), x, torch.ones(2))[0])
    assert gradient[0].eq(0).all()


def test_forward_mode_goes_through_a_gradient_that_was_made_in_the_forward_pass():
    x, target = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 3])
    with torch.autograd.forward_ad.dual_level():
        temperature = torch.autograd.forward_ad.make_dual(torch.tensor(1.5).double(), torch.tensor(1.0).double())
        tangents = []
        for way in ("recompute", "forward"):
            leaf = x.clone().requires_grad_()
            loss = softmax_ext.cross_entropy(leaf, target, temperature=temperature, gradient=way)
            (gradient,) = torch.autograd.grad(loss, leaf)
            tangents.append(torch.autograd.forward_ad.unpack_dual(gradient).tangent)
    torch.testing.assert_close(tangents[0], tangents[1])


def test_forward_mode_and_no_grad_take_weights_that_are_learned():
    x, target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), TARGET
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda x, weight: softmax_ext.cross_entropy(x, target, weight.exp()), (x, weight), check_forward_ad=True
    )
    with torch.no_grad():
        torch.testing.assert_close(softmax_ext.cross_entropy(x, target, weight), F.cross_entropy(x, target, weight))


def test_a_softcap_without_a_reciprocal_is_none():
    with pytest.raises(ValueError, match="expected a finite softcap > 0, got 1e-50"):
        softmax_ext.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]), softcap=1e-50)
