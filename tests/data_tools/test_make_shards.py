"""Pack shards that the webdataset library reads; interrupted runs; unreadable videos."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest
import webdataset
from processes import ROOT

from data_tools.shards import make_shards
from data_tools.shards.make_shards import main
from data_tools.shards.plan import make_plan
from data_tools.shards.tar_samples import scan_shard
from octvideo.cli import run
from octvideo.data import VideoIndex, read_index
from octvideo.errors import UserError


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of 20 files of 10 to 200 kB, which are not videos."""
    (tmp_path / "v").mkdir()
    lines = []
    for number in range(20):
        name = f"v/clip {number}.{('mp4', 'MKV')[number % 2]}"
        (tmp_path / name).write_bytes(bytes([number]) * (10_000 * (number % 20 + 1) + number))
        lines.append(f'"{name}",{number % 3}\n')
    (tmp_path / "classes.txt").write_text("bend\njump\nwave one hand\n")
    (tmp_path / "list.csv").write_text("".join(lines))
    return tmp_path / "list.csv"


def pack(listed: Path, *more: str, output: str = "s") -> Path:
    folder = listed.parent / output
    classes = listed.parent / "classes.txt"
    assert main(["--list", str(listed), "--output", str(folder), "--classes", str(classes), *more]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("more", [(), ("--shuffle", "3"), ("--max-count", "1"), ("--workers", "1")])
def test_webdataset_reads_the_shards(listed, more):
    folder = pack(listed, "--max-size", "1MB", *more)
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    assert len(shards) == (20 if "--max-count" in more else 3)
    samples = {s["__key__"]: s for s in webdataset.WebDataset(shards, shardshuffle=False)}
    files = read_index(listed)
    assert sorted(samples) == [f"{number:06d}" for number in range(20)]
    for number in range(20):
        sample, path = samples[f"{number:06d}"], files.path(number)
        video = Path(path).read_bytes()
        assert sample[("mp4", "mkv")[number % 2]] == video
        assert int(sample["cls"]) == number % 3
        name = ["bend", "jump", "wave one hand"][number % 3]
        assert json.loads(sample["json"]) == {"path": path, "label": number % 3, "class": name, "bytes": len(video)}
    assert all(os.path.getsize(shard) <= 1_000_000 for shard in shards)
    index = read_index(folder)
    assert [index.source(number) for number in range(20)] == [Path(files.path(n)).read_bytes() for n in range(20)]
    keys = [s["__key__"] for s in webdataset.WebDataset(shards, shardshuffle=False)]
    assert (keys == sorted(keys)) == ("--shuffle" not in more)


def test_plan_fills_shards(tmp_path):
    sizes = [300_000, 300_000, 900_000, 200_000, 200_000, 200_000, 200_000]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.mp4").write_bytes(bytes(size))
    index = VideoIndex([str(tmp_path / f"{number}.mp4") for number in range(7)], [0] * 7)
    assert make_plan(index, 700_000, 3, None, 2).shards == [[0, 1], [2], [3, 4, 5], [6]]
    shuffled = [make_plan(index, 700_000, 3, seed, 2).shards for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(sum(shuffled[0], [])) == list(range(7))


def test_same_list_gives_same_bytes(listed):
    first = content(pack(listed, "--shuffle", "1", "--max-count", "4"))
    again = content(pack(listed, "--shuffle", "1", "--max-count", "4", "--workers", "1", output="t"))
    assert first == again and len(first) == 6


def test_parts_make_the_same_bytes(listed, capsys):
    (listed.parent / "v" / "clip 3.MKV").unlink()
    whole = content(pack(listed, "--max-count", "4"))
    for part in ("2/3", "1/3"):
        folder = pack(listed, "--max-count", "4", "--part", part, output="t")
    with pytest.raises(UserError, match="1 of 5 shards are missing, 000002.tar for one"):
        pack(listed, "--max-count", "4", "--merge", output="t")
    pack(listed, "--max-count", "4", "--part", "3/3", output="t")
    assert "part 3 of 3 is done" in capsys.readouterr().out
    pack(listed, "--max-count", "4", "--merge", output="t")
    assert content(folder) == whole and len(whole) == 7


def test_finished_folder_is_kept(listed, capsys):
    folder = pack(listed)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    assert pack(listed) == folder
    assert "20 videos in 1 shards exist already" in capsys.readouterr().out
    with pytest.raises(UserError, match="with other settings; choose another --output"):
        pack(listed, "--max-count", "3")
    whole = content(folder)
    (folder / "000000.tar").unlink()
    assert content(pack(listed)) == whole, "a removed shard is packed again"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (listed.parent / "v" / "clip 0.mp4").write_bytes(b"changed")
    with pytest.raises(UserError, match="of files that have changed"):
        pack(listed)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(UserError, match="this is an index of shards already"):
        main(["--list", str(folder), "--output", str(listed.parent / "t")])
    (listed.parent / "other").mkdir()
    (listed.parent / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="has files that this command did not make"):
        pack(listed, output="other")
    assert content(listed.parent / "other") == {"thesis.txt": b"mine"}


def test_unreadable_videos_are_listed(listed, capsys):
    (listed.parent / "v" / "clip 3.MKV").unlink()
    (listed.parent / "v" / "clip 4.mp4").unlink()
    (listed.parent / "v" / "clip 4.mp4").mkdir()
    folder = pack(listed, "--max-count", "6")
    assert f"18 videos in 3 shards, 2.1 MB; 2 could not be read -> {folder}/left_out.jsonl" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert [(Path(row["clip"]).name, row["reason"]) for row in rows] == [
        ("clip 3.MKV", "No such file or directory"),
        ("clip 4.mp4", "not a file"),
    ]
    index = read_index(folder)
    assert len(index) == 18 and index.path(3).endswith("!000005.mkv") and index.label(3) == 5 % 3
    empty = listed.parent / "empty.csv"
    empty.write_text("absent.mp4 0\n")
    with pytest.raises(UserError, match="absent.mp4: No such file or directory; none of the 1 videos can be read"):
        main(["--list", str(empty), "--output", str(listed.parent / "t")])


def test_file_removed_during_the_run_is_listed(listed, capsys, monkeypatch):
    plan = make_shards.make_plan

    def plan_and_remove(*args):
        made = plan(*args)
        (listed.parent / "v" / "clip 7.MKV").unlink()
        return made

    monkeypatch.setattr(make_shards, "make_plan", plan_and_remove)
    folder = pack(listed)
    assert "19 videos in 1 shards" in capsys.readouterr().out
    (row,) = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    assert Path(row["clip"]).name == "clip 7.MKV" and row["reason"] == "No such file or directory"


COMMAND = """
import sys, time
sys.path[:0] = [{root!r}]
from data_tools.shards import make_shards
from octvideo.cli import run
pack = make_shards.Packer.pack
made = 0
def pausing(self, shard):
    global made
    failed = pack(self, shard)
    made += 1
    if made == {shards}:
        print("pause", flush=True)
        time.sleep(600)
    return failed
make_shards.Packer.pack = pausing
sys.exit(run(make_shards.main))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_interrupted_run_is_resumed(listed, number, code):
    whole = content(pack(listed, "--max-count", "2", output="whole"))
    output = listed.parent / "s"
    arguments = f"--list {listed} --classes {listed.parent / 'classes.txt'} --output {output} --max-count 2 --workers 1"
    script = COMMAND.format(root=str(ROOT), shards=3)
    process = subprocess.Popen([sys.executable, "-c", script, *arguments.split()], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"pause\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    there = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert len(there) == 2 and not (output / "shards.csv").exists()
    for path in there:
        assert path.read_bytes() == whole[path.name], "a shard under its final name is whole"
    with pytest.raises(UserError, match="they are unfinished: remove the folder, or choose another --output"):
        pack(listed, "--max-count", "3")
    assert content(pack(listed, "--max-count", "2")) == whole
    assert there == {path: path.stat().st_mtime_ns for path in there}, "finished shards were written again"


def test_second_run_is_refused(listed):
    output = listed.parent / "s"
    arguments = f"--list {listed} --output {output} --max-count 2 --workers 1"
    script = COMMAND.format(root=str(ROOT), shards=1)
    process = subprocess.Popen([sys.executable, "-c", script, *arguments.split()], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"pause\n"
        with pytest.raises(UserError, match="another run uses this folder"):
            main(arguments.split())
    finally:
        process.kill()
        process.communicate()
    assert not (output / "shards.csv").exists() and main(arguments.split()) == 0 and len(read_index(output)) == 20


def test_full_disk_leaves_whole_shards(listed, monkeypatch, capsys):
    fsync, calls = os.fsync, iter(range(100))

    def full(file):
        if next(calls) == 4:  # after the plan and a shard
            raise OSError(28, "No space left on device")
        return fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    arguments = ["--list", str(listed), "--output", str(listed.parent / "s"), "--max-count", "5", "--workers", "1"]
    assert run(main, arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("error: ") and "cannot be written (No space left on device)" in err
    shards = list((listed.parent / "s").rglob("*.tar"))
    assert shards and all(scan_shard(str(shard)).videos for shard in shards)
    monkeypatch.undo()
    assert run(main, arguments) == 0 and len(read_index(listed.parent / "s")) == 20


def write_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    """Write a shard like other programs: GNU tar's or POSIX's long names, folders among the members."""
    with tarfile.open(path, "w", **options) as archive:
        folder = tarfile.TarInfo("train")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_index_of_other_shards(tmp_path, format):
    stem = "train/" + ("väter " * 30 if format != tarfile.USTAR_FORMAT else "v")
    for shard in range(2):
        members = {}
        for number in range(3):
            key = f"{stem}_{shard}{number}"
            members |= {f"{key}.seg.mp4": b"video %d %d" % (shard, number), f"{key}.txt": b"a caption"}
            members |= {f"{key}.json": json.dumps({"action": ["jump", "bend"][number % 2]}).encode()}
        write_tar(tmp_path / f"k-{shard:04d}.tar", members, format=format)
    (tmp_path / "classes.txt").write_text("bend\njump\n")
    pattern = str(tmp_path / "k-{0000..0001}.tar")
    classes = ["--classes", str(tmp_path / "classes.txt"), "--label", "json.action"]
    for sources, output in (([str(tmp_path)], tmp_path), ([pattern], tmp_path / "p.csv"), ([pattern], tmp_path / "q")):
        assert main(["--index-only", *sources, "--output", str(output), *classes]) == 0
        index = read_index(output)
        assert index.classes == ["bend", "jump"] and index.labels.tolist() == [1, 0, 1] * 2
        assert [index.source(number) for number in range(6)] == [b"video %d %d" % (n // 3, n % 3) for n in range(6)]
        assert index.path(4) == f"{tmp_path}/k-0001.tar!{stem}_11.seg.mp4"
    assert main(["--index-only", pattern, "--output", str(tmp_path / "none.csv")]) == 0
    assert set(read_index(tmp_path / "none.csv").labels.tolist()) == {-1}


def test_index_of_remote_shards(listed, tmp_path):
    folder = pack(listed, "--max-count", "7")
    system = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    try:
        for sources in (["memory://bucket/{000000..000002}.tar"], ["memory://bucket"], ["memory://bucket/*.tar"]):
            assert main(["--index-only", *sources, "--output", str(tmp_path / "remote.csv")]) == 0
            index, files = read_index(tmp_path / "remote.csv"), read_index(listed)
            assert [index.source(n) for n in range(20)] == [Path(files.path(n)).read_bytes() for n in range(20)]
            assert index.labels.tolist() == files.labels.tolist()
            assert index.path(0).startswith("memory://") and index.path(0).endswith("bucket/000000.tar!000000.mp4")
    finally:
        system.rm("/bucket", recursive=True)


def test_index_is_reproducible(listed):
    folder = pack(listed, "--shuffle", "2", "--max-count", "7")
    first = read_index(folder)
    assert main(["--index-only", str(folder), "--output", str(folder)]) == 0
    again = read_index(folder)
    assert again.classes == first.classes and again.labels.tolist() == first.labels.tolist()
    assert [again.path(number) for number in range(20)] == [first.path(number) for number in range(20)]
    assert [again.source(number) for number in range(20)] == [first.source(number) for number in range(20)]


def test_images_are_samples_without_videos(tmp_path):
    members = {"0.jpg": b"thumbnail", "0.mp4": b"video", "1.mp4": b"video", "1.jpg": b"thumbnail", "2.JPEG": b"image"}
    path = write_tar(tmp_path / "a.tar", members)
    assert main(["--index-only", str(path), "--output", str(tmp_path / "a.csv")]) == 0
    index = read_index(tmp_path / "a.csv")
    assert [index.path(n).rpartition("!")[2] for n in range(len(index))] == ["0.mp4", "1.mp4", "2.JPEG"]
    assert [index.source(n) for n in range(3)] == [b"video", b"video", b"image"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: os.truncate(path, 700), "a.tar: not a whole tar file"),
        (lambda path: os.truncate(path, 2560), "a.tar: not a whole tar file.*without an end mark"),
        (lambda path: os.truncate(path, 0), "a.tar: not a whole tar file.*empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:2560] + b"x" * 1024), "a.tar: not a whole.*without an end"),
        (lambda path: path.write_bytes(b"text " * 500), "a.tar: not a whole tar file"),
        (lambda path: path.unlink(), "a.tar: cannot be read .No such file"),
        (lambda path: write_tar(path, {"0.cls": b"0"}), "no videos in 1 shards"),
        (lambda path: write_tar(path, {"0.a.mp4": b"0", "0.b.mp4": b"1"}), "a.tar!0.b.mp4: .* another video, 0.a.mp4"),
        (
            lambda path: write_tar(path, {"0.mp4": b"0", "0.cls": b"jump"}),
            "0.mp4: label 'jump' is neither a number nor",
        ),
        (
            lambda path: write_tar(path, {"0.mp4": b"0", "0.cls": b"\xff"}),
            "a.tar!0.cls: no label; name the member",
        ),
    ],
)
def test_bad_shards_are_named(tmp_path, spoil, message):
    path = write_tar(tmp_path / "a.tar", {"0.mp4": b"0", "0.cls": b"1"}, format=tarfile.USTAR_FORMAT)
    assert main(["--index-only", str(path), "--output", str(tmp_path / "good.csv")]) == 0
    spoil(path)
    with pytest.raises(UserError, match=message):
        main(["--index-only", str(path), "--output", str(tmp_path / "i.csv")])
    assert not (tmp_path / "i.csv").exists()


def test_bad_arguments_end_in_one_line(listed, tmp_path, capsys):
    for arguments, text in (
        (f"--list {listed} --output {listed}", "cannot be written"),
        (f"--index-only {tmp_path / 'v'} --output {tmp_path}", "no tar files"),
        (f"--index-only {tmp_path}/x.tar --output {listed}", "the file exists and is not an index of shards"),
    ):
        assert run(main, arguments.split()) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and text in err and err.count("\n") == 1
    assert run(main, ["--list", "", "--output", str(tmp_path / "x")]) == 2  # which is not the working directory
    assert capsys.readouterr().err == "error: the name of the list or folder is empty\n"
    for wrong in (
        ["--max-size", "12"],
        ["--max-size", "9" * 400],
        ["--max-count", "0"],
        ["--shuffle", "-1"],
        ["--output", ""],
    ):
        with pytest.raises(SystemExit):
            main(["--list", str(listed), "--output", "x", *wrong])


def test_missing_package_is_named():
    code = f"""
from importlib import util
import runpy
really_find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "webdataset" else really_find(name, *rest)
runpy.run_path({str(ROOT / "data_tools" / "make_shards.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: webdataset is not installed: pip install -e '.[shards]'\n"
