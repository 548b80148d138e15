"""Records of long work: what survives a kill, who knows what, and which files are refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from octvideo.errors import UserError
from octvideo.parts import Part
from octvideo.records import Record

NAMES = [f"clip {number}.mp4" for number in range(200)]


@pytest.mark.parametrize("total", [1, 3, 8])
def test_each_item_has_one_part(total: int) -> None:
    parts = [Part(number, total, total) for number in range(1, total + 1)]
    assert [sum(part.has(name) for part in parts) for name in NAMES] == [1] * len(NAMES)
    counts = Counter(part.number for part in parts for name in NAMES if part.has(name))
    assert max(counts.values()) < 1.5 * len(NAMES) / total


@pytest.mark.parametrize("text", ["3", "0/8", "9/8", "a/b", "1/8%0", "1/8%", "-1/8", ""])
def test_wrong_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="part"):
        Part.parse(text)


def test_part_is_read_as_written() -> None:
    assert Part.parse("3/8") == (3, 8, 8) and Part.parse(str(Part(3, 8, 2))) == (3, 8, 2)


def test_line_cut_anywhere_is_redone(tmp_path: Path) -> None:
    """A kill in the middle of a line: at each byte of it."""
    file = tmp_path / "r.jsonl"
    with Record(file, "name") as record:
        record.add({"name": "a", "score": 1})
        whole = len(record.path.read_bytes())
        record.add({"name": "bé", "score": 2})
    content = record.path.read_bytes()
    for size in range(whole, len(content)):
        record.path.write_bytes(content[:size])
        with Record(file, "name") as resumed:
            assert "a" in resumed and "bé" not in resumed
            resumed.add({"name": "bé", "score": 2})
        assert record.path.read_bytes() == content
    with Record(file, "name") as resumed:
        resumed.write(["bé", "a"])
        resumed.discard()
    assert [json.loads(line)["name"] for line in file.read_text(encoding="utf-8").splitlines()] == ["bé", "a"]
    assert list(tmp_path.iterdir()) == [file]


def test_other_number_of_parts_knows_all(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    for number in (1, 2):
        with Record(file, "name", Part(number, 2, 2)) as record:
            record.add({"name": f"of part {number}"})
    with Record(file, "name", Part(1, 2, 2)) as record:
        assert "of part 1" in record and "of part 2" not in record, "its sister has other names"
    with Record(file, "name", Part(1, 3, 3)) as record:
        assert "of part 1" in record and "of part 2" in record
    with Record(file, "name") as record:
        with pytest.raises(UserError, match="1 of 3 have no result yet, other for one"):
            record.require(["of part 1", "of part 2", "other"])
        record.write(["of part 2", "of part 1"])
        record.discard()
    assert list(tmp_path.iterdir()) == [file]


def test_running_part_holds_back_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octvideo.records._PATIENCE", 0.1)
    file = tmp_path / "r.jsonl"
    with Record(file, "name", Part(1, 2, 2)):
        with pytest.raises(UserError, match=r"r.jsonl.part-1-of-2: another process writes this file"):
            Record(file, "name").__enter__()
        with pytest.raises(UserError, match="another process"):
            Record(file, "name", Part(1, 2, 2)).__enter__()
        with Record(file, "name", Part(2, 2, 2)):
            pass


def test_file_of_something_else_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text('{"name": "a"}\nmy notes\n')
    with pytest.raises(UserError, match=r"notes.jsonl:2: not a line of this command's results"):
        Record(file, "name").__enter__()
    assert file.read_text() == '{"name": "a"}\nmy notes\n'
