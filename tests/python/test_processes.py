"""The operators in processes that were forked or spawned, in a DataLoader's workers, and in many threads at once."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from backend import cpu_kernels_only
from torch.utils.data import DataLoader, Dataset

import softmax_ext

pytestmark = cpu_kernels_only


def every_result(seed):
    """Of every operator and its gradient, along the last dim and another, of rows short and long."""
    generator = torch.Generator().manual_seed(seed)
    results = []
    for shape, dim in (((40, 7), 1), (((33, 300)), 1), ((3, 9001), 1), ((2, 50, 60), 1), ((1, 40_000), 1)):
        x = torch.randn(shape, generator=generator).requires_grad_()
        classes = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
        mask = torch.rand(shape, generator=generator) < 0.7
        values = [
            softmax_ext.softmax(x, dim, temperature=0.7),
            softmax_ext.log_softmax(x, dim),
            softmax_ext.logsumexp(x, dim),
            softmax_ext.entropy(x, dim),
            softmax_ext.masked_softmax(x, mask, dim, empty="zero"),
            softmax_ext.causal_softmax(x),
            softmax_ext.cross_entropy(x, classes),
            softmax_ext.cross_entropy(x, classes, label_smoothing=0.1, z_loss=0.1, gradient="forward"),
        ]
        results += values
        for value in values:
            results += torch.autograd.grad(value.square().sum(), x)
        results += softmax_ext.sample(x.detach().movedim(1, -1), seed=3, num_samples=5, top_k=6)
    return [result.detach() for result in results]


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Threads


@pytest.mark.parametrize("threads_of_each", [1, 2])
def test_many_threads_at_once_have_the_bits_of_one(threads_of_each):
    """Each thread with rows of its own, so that memory which two of them shared would show."""
    callers = 8
    was = torch.get_num_threads()
    torch.set_num_threads(threads_of_each)
    try:
        expected = [every_result(seed) for seed in range(callers)]
        together = Barrier(callers)

        def call(seed):
            torch.set_num_threads(threads_of_each)
            together.wait()
            return [every_result(seed) for _ in range(4)]

        with ThreadPoolExecutor(callers) as pool:
            for seed, rounds in enumerate(pool.map(call, range(callers))):
                for actual in rounds:
                    assert same_bits(actual, expected[seed])
    finally:
        torch.set_num_threads(was)


def test_threads_whose_first_calls_are_the_first_of_the_process():
    """What the library decides at its first call is decided once."""
    program = """
        import threading, torch, softmax_ext
        x = torch.randn(64, 300)
        together, results = threading.Barrier(16), []

        def call():
            together.wait()
            results.append(softmax_ext.softmax(x, 1))

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 16
        assert all(torch.equal(result, results[0]) for result in results)
    """
    for _ in range(3):
        shown = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
        )
        assert shown.returncode == 0, shown.stderr


# Processes


def send_results(connection, seed):
    torch.set_num_threads(1)  # those of the parent are not there in a fork: OpenMP would wait for them
    connection.send([result.numpy() for result in every_result(seed)])
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_that_is_started_after_the_operators_were_used_has_the_same_bits(method):
    """Started from one of its own: torch refuses backward in a fork where another test has used threads of autograd."""
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import test_processes; test_processes.start_and_compare({method!r})"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert shown.returncode == 0, shown.stderr


def start_and_compare(method):
    expected = every_result(5)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=send_results, args=(there, 5))
    process.start()
    there.close()
    try:
        assert here.poll(120), "the process hangs"
        results = [torch.from_numpy(result) for result in here.recv()]
    finally:
        process.join(20)
        process.kill()
    assert process.exitcode == 0
    assert same_bits(results, expected)


class Probabilities(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        logits = torch.randn(9001, generator=generator)
        return softmax_ext.softmax(logits, 0), softmax_ext.sample(logits, seed=index)[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_the_workers_of_a_data_loader_have_the_same_bits(method):
    data = Probabilities()
    expected = [data[index] for index in range(len(data))]
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=method, timeout=120)
    probs, tokens = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(probs, torch.stack([p for p, _ in expected]))
    assert torch.equal(tokens, torch.stack([t for _, t in expected]))
    assert same_bits([data[3][0]], [expected[3][0]])  # and the parent goes on


def test_a_fork_may_use_threads_of_its_own_where_the_parent_used_none():
    program = """
        import os, torch, softmax_ext
        torch.set_num_threads(1)
        x = torch.randn(64, 9001)
        expected = softmax_ext.softmax(x, 1)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(2)
            os._exit(0 if torch.equal(softmax_ext.softmax(x, 1), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert shown.returncode == 0, shown.stderr
