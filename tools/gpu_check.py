"""Checks and measures the CUDA kernels on a machine with a GPU; needs no network.

    python tools/gpu_check.py test        the C++ and Python tests on the device, and every output beside the CPU executor's
    python tools/gpu_check.py sanitize    compute-sanitizer: memcheck, racecheck, synccheck, initcheck
    python tools/gpu_check.py bench       python -m benchmarks.gpu
    python tools/gpu_check.py prepare     needs no GPU: builds, and writes the CPU executor's outputs

Runs under the Python whose torch is to be used. Each stage is made of steps; one that passed on the same sources, torch
and device is not run again, so a stage that was cut off goes on where it was. What failed, what time ran out for and what
is left out for want of a tool is said at the end. Exits with 1 if a step failed, with 75 if one is unfinished. Outputs,
and results.json, are in build/gpu-check.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "gpu-check"
VALUE_TESTS = [
    "test_lengths.py",
    "test_softmax.py",
    "test_cross_entropy.py",
    "test_cross_entropy_options.py",
    "test_gradient_ways.py",
    "test_errors.py",
    "test_lesson.py",
    "test_gradients.py",
    "test_functorch.py",
    "test_nn.py",
    "test_entropy.py",
    "test_masked_softmax.py",
]
UNFINISHED = 75  # as a command says that has more to do, and this one: EX_TEMPFAIL, which nothing else exits with
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


def digest_of_sources() -> str:
    digest = hashlib.sha256()
    for folder in ("csrc", "cuda", "python", "tests", "cmake", "tools", "benchmarks", "CMakeLists.txt"):
        path = ROOT / folder
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix in {".h", ".cuh", ".cu", ".cpp", ".py", ".cmake", ".txt"}:
                digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class Check:
    """The steps of a stage, and where their results are kept."""

    def __init__(self, arguments: argparse.Namespace):
        self.build = arguments.build.resolve()
        self.builds = not arguments.no_build
        self.archs = arguments.archs
        self.jobs = arguments.jobs
        self.deadline = time.monotonic() + arguments.seconds
        self.step_seconds = arguments.step_seconds
        self.sources = digest_of_sources()
        self.results_file = OUTPUT / "results.json"
        self.results = json.loads(self.results_file.read_text()) if self.results_file.exists() else {}
        self.left_out: list[str] = []
        self.unfinished: list[str] = []
        self.failed: list[str] = []

    def step(
        self,
        name: str,
        command: list[str | Path],
        *,
        cwd: Path = ROOT,
        environment: dict | None = None,
        of: str | None = None,
    ) -> bool:
        """Runs a command; False if it failed or there is no time for it.

        ``of`` is what the outcome depends on besides the sources; None runs the command whatever it did before.
        """
        key = None if of is None else f"{self.sources}, {of}"
        if key is not None and self.results.get(name, {}).get("passed of") == key:
            print(f"{name}: passed before", flush=True)
            return True
        left = min(self.deadline - time.monotonic(), self.step_seconds)
        if left < 5:
            self.unfinished.append(f"{name}: not begun")
            return False
        log = OUTPUT / f"{name.replace(' ', '-')}.log"
        begin = time.monotonic()
        with log.open("w") as file:
            # A group of its own, so that what it starts ends with it.
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                code = UNFINISHED
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        seconds = round(time.monotonic() - begin, 1)
        lines = log.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        outcome = {0: "passed", UNFINISHED: "UNFINISHED"}.get(code, f"FAILED ({code})")
        self.results[name] = {
            "outcome": outcome,
            "seconds": seconds,
            "last line": last,
            "passed of": key if code == 0 else None,
        }
        self.results_file.write_text(json.dumps(self.results, indent=2))
        print(f"{name}: {outcome}, {seconds} s: {last}", flush=True)
        if code == UNFINISHED:
            self.unfinished.append(f"{name}: cut off after {seconds} s")
        elif code != 0:
            self.failed.append(name)
            failures = [line for line in lines if line.startswith(("FAILED", "ERROR", "[  FAILED  ]", "E  "))]
            print("\n".join((failures or lines)[-30:]), flush=True)
        return code == 0

    @functools.cached_property
    def device(self) -> str:
        """The device and the torch that a step's outcome holds for."""
        code = "import torch; print(torch.__version__, torch.cuda.get_device_name())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    # What stages are made of.

    @property
    def library(self) -> Path:
        return self.build / "libsoftmax_ext.so"

    @property
    def executor_library(self) -> Path:
        return self.build / "tests" / "simt" / "libsoftmax_ext_simt.so"

    @property
    def kernel_tests(self) -> Path:
        return self.build / "test_kernels_gpu"

    def build_all(self, *, with_tests: bool) -> None:
        if not self.builds:
            return
        torch_dir = importlib.util.find_spec("torch").submodule_search_locations[0]
        options = [f"-DTORCH_DIR={torch_dir}", "-DSOFTMAX_EXT_CUDA=1", f"-DSOFTMAX_EXT_ARCHS={self.archs}"]
        options += ["-DSOFTMAX_EXT_TESTS=ON", "-DSOFTMAX_EXT_GOOGLETEST=auto"]
        if not self.step("configure", ["cmake", "-S", ROOT, "-B", self.build, "-G", "Ninja", *options]):
            self.stop("could not configure")
        self.make("build", ["softmax_ext"] + (["softmax_ext_simt"] if with_tests else []))
        cache = (self.build / "CMakeCache.txt").read_text()
        if "with_googletest:INTERNAL=ON" in cache:
            self.make("build tests", ["test_kernels_gpu"])

    def make(self, name: str, targets: list[str]) -> None:
        command = ["cmake", "--build", self.build, "-j", str(self.jobs), "--target", *targets]
        if not self.step(name, command):
            self.stop(f"{name} did not end well, see {OUTPUT}/{name.replace(' ', '-')}.log")

    def stop(self, why: str) -> None:
        print(f"gpu_check: {why}")
        sys.exit(1 if self.failed else UNFINISHED)

    def has_kernel_tests(self) -> bool:
        if self.kernel_tests.exists():
            return True
        self.left_out.append("C++ tests: no GoogleTest (bring it, and set GTest_ROOT to its folder)")
        return False

    def python(self, library: Path, **environment: str) -> dict[str, str]:
        """The environment in which Python finds this source tree with a library."""
        version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
        site = OUTPUT / "site"
        metadata = site / f"softmax_ext-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: softmax_ext\nVersion: {version}\n")
        paths = [str(ROOT / "python"), str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(paths), "SOFTMAX_EXT_LIBRARY": str(library), **environment}

    def pytest(self, name: str, files: list[str], *options: str, **environment: str) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *files]
        if importlib.util.find_spec("xdist") and "-n" not in options:
            command += ["-n", str(min(self.jobs, 8))]
        return self.step(
            name,
            command,
            cwd=ROOT / "tests" / "python",
            environment=self.python(self.library, **environment),
            of=self.device,
        )


COMPARE = [sys.executable, ROOT / "tests" / "python" / "compare_backends.py"]


def write_outputs(check: Check) -> Path | None:
    """What the CPU executor yields; None without its library, or where it fails."""
    outputs = OUTPUT / "executor-outputs.pt"
    if not check.executor_library.exists() and not outputs.exists():
        check.left_out.append(f"compare outputs: no {check.executor_library.name}")
        return None
    torch = importlib.metadata.version("torch").partition("+")[0] if outputs.exists() else None
    environment = check.python(check.executor_library)
    return (
        outputs
        if check.step("write outputs", [*COMPARE, "write", outputs], environment=environment, of=torch)
        else None
    )


def prepare(check: Check) -> None:
    check.build_all(with_tests=True)
    write_outputs(check)


def test(check: Check) -> None:
    check.build_all(with_tests=True)
    if check.has_kernel_tests():
        check.step("test kernels", [check.kernel_tests], of=check.device)
    check.pytest("test cuda", ["test_cuda.py"], "-n", "0")
    check.pytest("test values", VALUE_TESTS, SOFTMAX_EXT_TEST_DEVICE="cuda")
    if outputs := write_outputs(check):
        environment = check.python(check.library)
        check.step("compare outputs", [*COMPARE, "compare", outputs], environment=environment, of=check.device)


def sanitize(check: Check) -> None:
    check.build_all(with_tests=False)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if not sanitizer:
        check.left_out.append("sanitize: no compute-sanitizer")
        return
    options = ["--error-exitcode", "1", "--kernel-name", "kernel_substring=softmax_ext"]
    for tool in SANITIZERS:
        if check.has_kernel_tests():
            # Each row alone: many small launches, which say nothing new.
            command = [check.kernel_tests, "--gtest_filter=-*AloneAndInABatch*"]
            check.step(f"sanitize kernels {tool}", [sanitizer, "--tool", tool, *options, *command], of=check.device)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_lengths.py"]
        environment = check.python(check.library, SOFTMAX_EXT_TEST_DEVICE="cuda", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        check.step(
            f"sanitize operators {tool}",
            [sanitizer, "--tool", tool, *options, *command],
            cwd=ROOT / "tests" / "python",
            environment=environment,
            of=check.device,
        )


def bench(check: Check) -> None:
    check.build_all(with_tests=False)
    if not importlib.util.find_spec("liger_kernel"):
        check.left_out.append("Liger: not installed (bring it, and set PYTHONPATH)")
    left = max(min(check.deadline - time.monotonic(), check.step_seconds) - 20, 10)
    command = [sys.executable, "-m", "benchmarks.gpu", "--results", OUTPUT / "bench.jsonl", "--seconds", f"{left:.0f}"]
    caches = {name: str(OUTPUT / "compiled") for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    check.step("bench", command, environment=check.python(check.library, **caches))


STAGES: dict[str, Callable[[Check], None]] = {
    "prepare": prepare,
    "test": test,
    "sanitize": sanitize,
    "bench": bench,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument(
        "--seconds", type=float, default=520, help="for all stages together; what is left is for a rerun"
    )
    parser.add_argument("--step-seconds", type=float, default=float("inf"), help="for one step at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--archs", default="90", help="as SOFTMAX_EXT_ARCHS")
    parser.add_argument("--build", type=Path, default=OUTPUT / "build", help="where CMake builds")
    parser.add_argument("--no-build", action="store_true", help="use what is in the build folder")
    arguments = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what a step has started ends with it
    try:
        print(f"torch {importlib.metadata.version('torch')}, Python {sys.version.split()[0]}", flush=True)
    except importlib.metadata.PackageNotFoundError:
        parser.error(f"expected a Python that has torch, got {sys.executable}")
    check = Check(arguments)
    for stage in arguments.stages:
        STAGES[stage](check)
    for what in check.left_out:
        print(f"LEFT OUT: {what}")
    for what in check.unfinished:
        print(f"UNFINISHED: {what}; run the stage again")
    counts = [f"{len(check.failed)} FAILED"] * bool(check.failed)
    counts += [f"{len(check.unfinished)} UNFINISHED"] * bool(check.unfinished)
    print(f"gpu_check {' '.join(arguments.stages)}: {', '.join(counts) or 'passed'}")
    sys.exit(1 if check.failed else UNFINISHED if check.unfinished else 0)


if __name__ == "__main__":
    main()
