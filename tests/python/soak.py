"""Runs properties.py and argument_fuzz.py for minutes, and says how many calls of each operator went well.

``make soak MINUTES=10``, or ``python tests/python/soak.py --minutes 10``; exit status 1 where there is a finding. Seeds go
up from --seed, so that a run is repeated by its first, and a finding by ``--only NAME --seed SEED --rounds 1``.
"""

from __future__ import annotations

import argparse
import io
import platform
import sys
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, field

import argument_fuzz
import hypothesis
import loss_properties  # noqa: F401  (adds its own to PROPERTIES)
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from properties import PROPERTIES
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import softmax_ext

#: Of one round: hypothesis finds more in many short searches than in a long one, which grows slow.
EXAMPLES = 50


#: A few of each overload.
CALLS = 490
FUZZ = "arguments"


@dataclass
class Count:
    examples: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)


def run_property(name: str, seed: int, count: Count) -> None:
    @hypothesis.seed(seed)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[Phase.generate],  # to make a finding smaller would take minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data):
        count.examples += 1
        PROPERTIES[name](data.draw)

    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            check()
    except Exception:
        count.findings.append(f"{name}, seed {seed}:\n{shown.getvalue()}{traceback.format_exc(limit=-4)}")


def run_fuzz(seed: int, count: Count) -> None:
    report = argument_fuzz.in_a_process(seed, CALLS)
    count.examples += sum(report["counts"].values())
    count.refused += sum(report["refused"].values())
    count.findings += report["findings"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, help="instead of minutes, so many of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of operators")
    arguments = parser.parse_args()
    known = [*PROPERTIES, FUZZ]
    unknown = set(arguments.only or []) - set(known)
    if unknown:
        parser.error(f"expected names of {known}, got {sorted(unknown)}")
    names = [name for name in known if not arguments.only or name in arguments.only]
    counts = {name: Count() for name in names}
    console = Console(width=120, soft_wrap=True)
    start = time.monotonic()
    seconds = arguments.minutes * 60 if arguments.rounds is None else None

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds or arguments.rounds)
        rounds = 0
        while rounds < arguments.rounds if seconds is None else time.monotonic() - start < seconds:
            for name in names:
                if name == FUZZ:
                    run_fuzz(arguments.seed + rounds, counts[name])
                else:
                    run_property(name, arguments.seed + rounds, counts[name])
                total = sum(count.examples for count in counts.values())
                found = sum(len(count.findings) for count in counts.values())
                done = rounds if seconds is None else time.monotonic() - start
                progress.update(task, completed=done, description=f"{total} examples, {found} findings")
            rounds += 1

    for name, count in counts.items():
        console.print(
            f"{name:<32} {count.examples:>8} examples  {len(count.findings)} findings"
            + (f"  ({count.refused} refused)" if count.refused else "")
        )
    for count in counts.values():
        for finding in count.findings:
            console.print("\n" + finding, markup=False, highlight=False)
    info = softmax_ext.info()
    console.print(
        f"{time.monotonic() - start:.0f} s, {rounds} rounds from seed {arguments.seed}; torch {torch.__version__}, "
        f"Python {platform.python_version()}, {info['cpu']}, {torch.get_num_threads()} threads"
    )
    return 1 if any(count.findings for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
