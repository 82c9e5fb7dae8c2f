"""Processes that stay connected by gloo, for tests to run functions in: ``with Ranks(4) as ranks: ranks.run(f, 3)``."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

#: What a test may take, and what a rank waits for another, with processors that others use too.
SECONDS, PATIENCE = 300, 60


class Ranks:
    """``size`` processes, of which ``run`` takes the first few: groups of 1 to ``size`` ranks are there from the start."""

    def __init__(self, size: int = 4):
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = os.path.join(self._folder.name, "store")
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, store, rank, size), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable, world: int, *arguments: Any) -> list[Any]:
        """``function(group, *arguments)`` on the ranks of a group of ``world``; what it returned on each.

        Raises:
            AssertionError: it raised on a rank; with the tracebacks of all that did.
            TimeoutError: a rank did not answer.
        RuntimeError: its process ended.
        """
        for pipe in self._pipes[:world]:
            pipe.send((function, world, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes[:world]):
            if not pipe.poll(SECONDS):
                raise TimeoutError(f"rank {rank} gave no answer in {SECONDS} s")
            try:
                answers.append(pipe.recv())
            except EOFError:
                raise RuntimeError(f"rank {rank} ended") from None
        failures = [f"rank {rank}:\n{error}" for rank, (error, _) in enumerate(answers) if error is not None]
        if failures:
            raise AssertionError("\n".join(failures))
        return [result for _, result in answers]

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()
        self._folder.cleanup()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _serve(pipe, store: str, rank: int, size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE)
    )
    groups = {world: dist.new_group(list(range(world))) for world in range(1, size + 1)}
    while True:
        try:
            function, world, arguments = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            pipe.send((None, function(groups[world], *arguments)))
        except Exception:  # whatever it is, the test reports it
            pipe.send((traceback.format_exc(), None))
