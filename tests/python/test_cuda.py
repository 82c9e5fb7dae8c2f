"""The CUDA backend as PyTorch sees it: registration without a GPU; streams, graphs, devices and errors where there is one.

Values and derivatives: the other tests, with SOFTMAX_EXT_TEST_DEVICE=cuda, or on the CPU executor.
"""

import subprocess
import sys
import textwrap

import pytest
import torch

import softmax_ext

PRIMITIVES = [
    "_softmax",
    "_softmax_backward",
    "_log_softmax",
    "_log_softmax_backward",
    "_logsumexp",
    "_logsumexp_backward",
    "_cross_entropy",
    "_cross_entropy_backward",
    "_cross_entropy_with_gradient",
    "_cross_entropy_in_place",
    "_scale_gradient",
    "_sample",
]
# One for each mapping of rows to threads.
LENGTHS = [21, 100, 1000, 5000, 40_000, 600_000]


def has_cuda_kernel(primitive):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"softmax_ext::{primitive}", "CUDA")


built_with_cuda = pytest.mark.skipif(not has_cuda_kernel("_softmax"), reason="this build has no CUDA kernels")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
on_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")


def every_operator(x, target):
    """Each operator and its backward, on rows of logits."""
    x = x.detach().requires_grad_()
    values = (softmax_ext.softmax(x, 1), softmax_ext.log_softmax(x, 1), softmax_ext.logsumexp(x, 1))
    values += (softmax_ext.cross_entropy(x, target),)
    gradients = [torch.autograd.grad(value.square().sum(), x, retain_graph=True)[0] for value in values]
    return [*values, *gradients]


def batch(length, dtype=torch.float32):
    return torch.randn(3, length, device="cuda", dtype=dtype), torch.randint(length, (3,), device="cuda")


@built_with_cuda
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_primitive_is_registered_for_cuda(primitive):
    assert has_cuda_kernel(primitive)


@on_gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_a_graph_replays_on_new_data(length):
    x, target = batch(length)
    every_operator(x, target)  # what is done once: occupancy, modules
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        captured = every_operator(x, target)
    new_x, new_target = batch(length)
    x.copy_(new_x)
    target.copy_(new_target)
    graph.replay()
    torch.testing.assert_close(captured, every_operator(new_x, new_target), rtol=0, atol=0)


@on_gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_nothing_waits_for_the_device(length):
    x, target = batch(length)
    every_operator(x, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        every_operator(x, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_work_is_on_the_current_stream(length):
    x, target = batch(length)
    expected = every_operator(x, target)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.empty_like(x)
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        actual = every_operator(late, target)
    stream.synchronize()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@on_gpu
@pytest.mark.parametrize("length", LENGTHS[:-1])
def test_memory_is_that_of_the_output(length):
    x = torch.randn(1024, length, device="cuda")
    softmax_ext.softmax(x, 1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = softmax_ext.softmax(x, 1)
    assert torch.cuda.max_memory_allocated() - before <= y.nbytes + (2 << 20)  # the allocator's step


@on_gpu
@pytest.mark.parametrize("length", LENGTHS)
def test_runs_repeat_bit_by_bit(length):
    x, target = batch(length)
    first = every_operator(x, target)
    for _ in range(5):
        torch.testing.assert_close(every_operator(x, target), first, rtol=0, atol=0)


@on_two_gpus
def test_the_device_is_that_of_the_tensor():
    x = torch.randn(4, 100, device="cuda:1")
    with torch.cuda.device(0):
        y = softmax_ext.softmax(x, 1)
    assert y.device == x.device
    torch.testing.assert_close(y, torch.softmax(x, 1))


@on_gpu
@pytest.mark.parametrize("target", [-1, 5, 2**40])
def test_a_target_out_of_range_is_an_assertion_of_the_device(target):
    code = f"""
        import torch, softmax_ext
        x = torch.randn(2, 5, device="cuda")
        softmax_ext.cross_entropy(x, torch.tensor([0, {target}], device="cuda"))
        torch.cuda.synchronize()
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "cross_entropy: expected targets in [0, classes) or ignore_index" in run.stdout + run.stderr


@on_gpu
def test_autocast_reads_halves_once_and_gives_float32():
    x = torch.randn(7, 100, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16), torch.profiler.profile() as profile:
        y = softmax_ext.softmax(x, 1)
    assert y.dtype == torch.float32
    assert not {event.key for event in profile.key_averages()} & {"aten::_to_copy", "aten::copy_"}
    torch.testing.assert_close(y, torch.softmax(x.float(), 1))
