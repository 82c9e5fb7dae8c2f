"""The numbers that the explorer sends, against an independent formula, and how it answers what it cannot show."""

import http.client
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import pytest

pytest.importorskip("starlette", reason="the explorer is an extra")

import torch
import uvicorn

from softmax_ext.explorer.app import PAGES, STATIC, create_app
from softmax_ext.explorer.json_numbers import with_nonfinite_as_strings

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SWEEP = [2.0, 1.2, 0.6, -0.3, -1.1]


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    def json(self):
        return json.loads(self.text, parse_constant=refuse)


def refuse(word):
    raise AssertionError(f"{word} is not JSON")


class Client:
    def __init__(self, port):
        self.port = port

    def get(self, path, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read().decode())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def client():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended before it began"
            time.sleep(0.01)
        yield Client(listener.getsockname()[1])
        server.should_exit = True
        thread.join()


def numbers(client, address):
    response = client.get(f"/api/{address}")
    assert response.status == 200, response.text
    return response.json()


def softmax(logits, temperature=1.0):
    top = max(logits)
    exponentials = [math.exp((z - top) / temperature) for z in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def entropy_in_bits(probs):
    return -math.fsum(p * math.log2(p) for p in probs if p > 0)


def test_the_explorer_begins_with_five_animals(client):
    shown = numbers(client, "explorer")
    assert shown["labels"] == ["cat", "dog", "bird", "fish", "fox"]
    assert [round(100 * p, 1) for p in shown["probabilities"]] == [50.5, 30.6, 12.4, 5.1, 1.4]
    assert shown["labels"][shown["argmax"]] == "cat"
    assert (round(shown["entropy"], 3), round(shown["total"], 3)) == (1.698, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.5])
def test_probabilities_entropy_loss_and_gradient_are_those_of_the_formula(client, dtype, temperature):
    query = f"class=a:3.25&class=b:-0.5&class=c:0.125&target=2&temperature={temperature}&dtype={dtype}"
    shown = numbers(client, f"explorer?{query}")
    expected = softmax([3.25, -0.5, 0.125], temperature)
    # The logits are numbers of every dtype. Distances of up to 75 make eight roundings of float32 at most.
    u = torch.finfo(DTYPES[dtype]).eps / 2
    relative = u + 8 * 76 * 2.0**-24 * (dtype != "float64")
    tiny = torch.finfo(DTYPES[dtype]).tiny
    assert shown["probabilities"] == pytest.approx(expected, rel=max(relative, 1e-13), abs=tiny)
    assert shown["entropy"] == pytest.approx(entropy_in_bits(expected), rel=1e-12)
    loss_unit = 2.0**-24 if dtype != "float64" else 2.0**-53
    assert shown["loss"] == pytest.approx(-math.log(expected[2]), rel=16 * loss_unit)
    gradient = [(p - (index == 2)) / temperature for index, p in enumerate(expected)]
    assert shown["gradient"] == pytest.approx(gradient, rel=max(relative, 1e-13), abs=tiny / temperature)


def test_the_most_probable_class_is_the_true_one_until_another_is_named(client):
    assert numbers(client, "explorer")["loss"] == pytest.approx(-math.log(0.50487), abs=1e-5)
    assert numbers(client, "explorer?target=4")["loss"] == pytest.approx(-math.log(0.013795), abs=1e-4)


def test_one_class_is_certain_and_has_no_share_of_the_entropy(client):
    shown = numbers(client, "explorer?class=only:-40")
    assert (shown["probabilities"], shown["entropy"], shown["gradient"]) == ([1.0], 0.0, [0.0])
    assert (shown["entropy_share"], shown["regime"]) == ("NaN", "one class")


@pytest.mark.parametrize(
    ("temperature", "bits", "share", "regime"),
    [
        (0.01, 0.0, 0.0, "near one-hot"),
        (0.3, 0.422, 0.18, "sharp"),
        (0.5, 0.975, 0.42, "sharp"),
        (1.0, 1.723, 0.74, "typical"),
        (2.0, 2.131, 0.92, "flat"),
        (5.0, 2.289, 0.99, "near uniform"),
        (100.0, 2.322, 1.0, "near uniform"),
    ],
)
def test_temperature_sets_entropy_and_regime(client, temperature, bits, share, regime):
    shown = numbers(client, f"temperature?temperature={temperature}")
    assert (round(shown["entropy"], 3), round(shown["entropy_share"], 2)) == (bits, share)
    assert shown["regime"] == regime


def test_the_sweep_is_the_entropy_at_each_temperature(client):
    shown = numbers(client, "temperature/sweep")
    temperatures, entropies = shown["temperatures"], shown["entropy"]
    assert (temperatures[0], temperatures[-1]) == (pytest.approx(0.01), pytest.approx(100))
    assert entropies == pytest.approx([entropy_in_bits(softmax(SWEEP, t)) for t in temperatures], rel=1e-12, abs=1e-15)
    assert shown["max_entropy"] == pytest.approx(math.log2(5))


@pytest.mark.parametrize("offset", [-1000, -50, 0, 708, 709, 842.3, 1000])
def test_in_float64_only_the_stable_column_stands_any_offset(client, offset):
    shown = numbers(client, f"stability?offset={offset}")
    assert [round(100 * p, 2) for p in shown["stable"]["probabilities"]] == [54.31, 24.40, 13.39, 5.45, 2.45]
    assert shown["stable"]["status"] == "right"
    # exp(709.78) is the largest, and the largest logit is 2.
    breaks = offset + 2 > 709.78 or offset < -745
    assert shown["naive"]["status"] == ("nan" if breaks else "right")
    assert ("NaN" in shown["naive"]["probabilities"]) == breaks


@pytest.mark.parametrize(("dtype", "last"), [("float64", 707), ("float32", 86), ("bfloat16", 86), ("float16", 8)])
def test_the_written_formula_overflows_where_the_dtype_ends(client, dtype, last):
    assert numbers(client, f"stability?dtype={dtype}&offset={last}")["naive"]["cause"] != "overflow"
    beyond = numbers(client, f"stability?dtype={dtype}&offset={last + 3}")["naive"]
    assert (beyond["status"], beyond["cause"]) == ("nan", "overflow")
    assert beyond["total"] == "Infinity"


def test_16_bit_logits_are_rounded_by_the_offset_and_the_view_says_so(client):
    shown = numbers(client, "stability?dtype=bfloat16&offset=842.3")
    assert shown["spacing"] == 4
    assert shown["shifted_logits"] == [844, 844, 844, 840, 840]
    assert (shown["stable"]["status"], shown["stable"]["cause"]) == ("off", "rounded logits")
    assert shown["stable"]["probabilities"] == pytest.approx(softmax([844, 844, 844, 840, 840]), rel=2.0**-8)


def test_the_map_says_at_every_offset_what_the_columns_say(client):
    for row in numbers(client, "stability/map")["dtypes"]:
        for formula in ("naive", "stable"):
            spans = row[formula]
            assert (spans[0]["from"], spans[-1]["to"]) == (-1000, 1000)
            for span in spans:
                for offset in {span["from"], span["to"]}:
                    shown = numbers(client, f"stability?dtype={row['dtype']}&offset={offset}")
                    assert shown[formula]["status"] == span["status"], (row["dtype"], formula, offset)


def test_numbers_that_json_lacks_travel_as_strings():
    sent = with_nonfinite_as_strings({"a": [math.nan, (math.inf, -math.inf)], "b": 1.5, "c": "NaN", "d": None})
    assert sent == {"a": ["NaN", ["Infinity", "-Infinity"]], "b": 1.5, "c": "NaN", "d": None}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("explorer?temperature=0", "temperature: expected a number from 0.01 to 100, got '0'"),
        ("explorer?temperature=hot", "temperature: expected a number from 0.01 to 100, got 'hot'"),
        ("explorer?temperature=nan", "temperature: expected a number from 0.01 to 100, got 'nan'"),
        ("explorer?dtype=int8", "dtype: expected float64, float32, bfloat16, float16, got 'int8'"),
        ("explorer?target=5", "target: expected a whole number from -1 to 4, got '5'"),
        ("explorer?target=0.5", "target: expected a whole number from -1 to 4, got '0.5'"),
        ("explorer?class=a:inf", "a number from -1000 to 1000, got 'a:inf'"),
        ("explorer?class=a", "class: expected label:logit"),
        (f"explorer?class={'a' * 25}:1", "a label of at most 24 characters"),
        ("explorer?" + "&".join(["class=a:1"] * 13), "class: expected at most 12 classes, got 13"),
        ("stability?offset=1001", "offset: expected a number from -1000 to 1000, got '1001'"),
        ("temperature?temprature=2", "unknown setting: temprature"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(client, address, message):
    response = client.get(f"/api/{address}")
    assert response.status == 400
    assert message in response.json()["error"]


def test_labels_may_hold_colons_and_be_empty(client):
    assert numbers(client, "explorer?class=a:b:2&class=:1")["labels"] == ["a:b", ""]


@pytest.mark.parametrize("path", ["", *PAGES])
def test_every_view_has_an_address_and_may_load_nothing_from_elsewhere(client, path):
    response = client.get(f"/{path}")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_every_file_that_the_page_names_is_served(client):
    served, waiting = {}, ["/"]
    while waiting:
        path = waiting.pop()
        response = client.get(path)
        assert response.status == 200, path
        served[path] = response.text
        found = re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text) if path == "/" else []
        folder = path.rsplit("/", 1)[0]
        for name in re.findall(r'^import .* from "(\.[^"]+)";', response.text, re.MULTILINE):
            found.append(re.sub(r"/\w+/\.\./", "/", f"{folder}/{name}".replace("/./", "/")))
        waiting += [name for name in found if name not in served]
    files = {f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*") if path.is_file()}
    assert files == {path for path in served if path.startswith("/static/")} | {"/static/index.html"}
    for path, text in served.items():
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, path


def test_a_page_that_calls_this_machine_by_another_name_is_not_served(client):
    assert client.get("/api/explorer", {"Host": "elsewhere.example"}).status == 400


def test_the_command_prints_its_address_serves_there_and_ends_without_a_trace():
    command = [sys.executable, "-W", "ignore", "-m", "softmax_ext.explorer", "--port"]
    with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            with socket.create_connection(("127.0.0.1", int(address[1])), timeout=30) as connection:
                connection.sendall(b"GET /api/explorer HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'"entropy":1.69' in answer
            taken = subprocess.run([*command, address[1]], capture_output=True, text=True, timeout=120)
            assert taken.returncode == 1
            assert f"cannot listen on port {address[1]}" in taken.stderr
            assert "--port 0" in taken.stderr
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_without_the_extra_the_command_says_what_to_install():
    code = (
        "import sys, importlib.util as u; found = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'uvicorn' else found(name, *rest);"
        "from softmax_ext.explorer.__main__ import main; sys.argv[1:] = []; sys.exit(main())"
    )
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == 1
    assert "needs uvicorn: run pip install 'softmax_ext[explorer]'" in completed.stderr
