"""The same batches from shards as from files, wherever the shards are; what does not fit is named."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from shard_server import ShardServer

from data_tools.shards.make_shards import main
from octvideo.cli import run
from octvideo.config import load_cfg
from octvideo.data import DecodeError, VideoIndex, build_test_loader, build_train_loader, open_video, read_index
from octvideo.data.checking.report import read_source
from octvideo.data.shards import Member, ShardIndex
from octvideo.errors import UserError


def cfg_of(source: Path | str, *overrides: str):
    sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40"
    rest = "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.COLOR_JITTER 0.3 TRAIN.BATCH_SIZE 4 MODEL.NUM_CLASSES 2"
    views = "TEST.NUM_CLIPS 2 TEST.NUM_CROPS 3 NUM_WORKERS 0"
    paths = ["DATA.TRAIN", str(source), "DATA.VAL", str(source)]
    return load_cfg(None, [*f"{sizes} {rest} {views}".split(), *paths, *overrides])


def batches(source: Path | str, *overrides: str, steps: int = 5):
    return list(islice(build_train_loader(cfg_of(source, *overrides)), steps))


def assert_same(expected, found) -> None:
    """Two lists of batches, bit for bit."""
    assert len(expected) == len(found) > 0
    for a, b in zip(expected, found):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.seeds, b.seeds)
        assert a.labels.tolist() == b.labels.tolist() and a.indices.tolist() == b.indices.tolist()
        assert not a.failed and not b.failed


@pytest.fixture(scope="module")
def packed(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight training videos in three shards, shuffled."""
    output = tmp_path_factory.mktemp("shards") / "s"
    arguments = f"--list {video_folder / 'train'} --output {output} --max-count 3 --shuffle 5"
    assert main(arguments.split()) == 0
    assert sorted(path.name for path in output.iterdir()) == ["000000.tar", "000001.tar", "000002.tar", "shards.csv"]
    return output


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """Shards that a test may spoil."""
    return Path(shutil.copytree(packed, tmp_path / "s"))


@pytest.fixture
def server(packed: Path) -> Iterator[ShardServer]:
    server = ShardServer(packed)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expected(video_folder: Path):
    """Five training batches from the files: two and a half passes."""
    return batches(video_folder / "train")


def test_the_index_is_that_of_the_files(packed, video_folder):
    files = read_index(video_folder / "train")
    for source in (packed, packed / "shards.csv", str(packed)):
        index = read_index(source)
        assert index.classes == files.classes and index.labels.tolist() == files.labels.tolist()
        for number in range(8):
            assert index.source(number) == Path(files.path(number)).read_bytes()
            assert index.path(number).endswith(f".tar!{number:06d}.mp4")
    shards = {index.path(number).split("!")[0] for number in range(4)}
    assert len(shards) > 1, "the seed has put the videos of a class into several shards"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_training_batches_are_those_of_the_files(packed, expected, workers):
    assert_same(expected, batches(packed, "NUM_WORKERS", workers))
    assert len({tuple(batch.indices.tolist()) for batch in expected}) == 5


@pytest.mark.parametrize("workers", ["0", "2"])
def test_test_views_are_those_of_the_files(packed, video_folder, workers):
    files = list(build_test_loader(cfg_of(video_folder / "train")))
    shards = list(build_test_loader(cfg_of(packed, "NUM_WORKERS", workers)))
    assert [item.index for item in shards] == list(range(8))
    for a, b in zip(files, shards):
        assert torch.equal(a.frames, b.frames) and a.label == b.label and b.failed is None


@pytest.mark.parametrize("workers", ["0", "2"])
def test_training_batches_over_http(server, expected, workers):
    # The index is read in this process, so fsspec's connection and thread are there when the workers are forked.
    assert_same(expected, batches(server.url, "NUM_WORKERS", workers))
    read = [size for name, size in server.served if name.endswith(".tar")]
    index = read_index(f"{server.url}/shards.csv")
    sizes = {len(index.source(number)) + 512 for number in range(8)}
    assert len(read) >= 20 and set(read) <= sizes, "a read is one video and its header, nothing else"


def test_training_batches_from_memory_and_test_views(packed, video_folder, expected):
    system = fsspec.filesystem("memory")
    for path in packed.iterdir():
        system.pipe_file(f"/k400/{path.name}", path.read_bytes())
    try:
        assert_same(expected, batches("memory://k400", "DATA.ITEM_TIMEOUT", "0"))
        items = list(build_test_loader(cfg_of("memory://k400/shards.csv", "DATA.ITEM_TIMEOUT", "0")))
    finally:
        system.rm("/k400", recursive=True)
    files = build_test_loader(cfg_of(video_folder / "train"))
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(files, items, strict=True))


def test_a_local_index_of_shards_elsewhere(packed, server, tmp_path, expected):
    shutil.copy(packed / "shards.csv", tmp_path / "train.csv")
    assert_same(expected, batches(tmp_path / "train.csv", "DATA.ROOT", server.url))
    assert_same(expected, batches(tmp_path / "train.csv", "DATA.ROOT", str(packed)))


def test_class_names_renumber_the_labels(packed, tmp_path):
    (tmp_path / "classes.txt").write_text("right\nup\ndown\n")
    index = read_index(packed, classes_file=str(tmp_path / "classes.txt"))
    assert index.classes == ["right", "up", "down"] and index.labels.tolist() == [2] * 4 + [0] * 4
    assert len(index.source(7)) > 512 and index.path(7).endswith("!000007.mp4")
    (tmp_path / "classes.txt").write_text("right\nup\n")
    with pytest.raises(UserError, match="class 'down' is not among the class names; check DATA.CLASSES"):
        read_index(packed, classes_file=str(tmp_path / "classes.txt"))


def test_other_processes_get_the_index(packed):
    index = read_index(packed)
    first = index.source(0)  # a shard is open
    again = pickle.loads(pickle.dumps(index))
    assert again.source(0) == first and again.path(7) == index.path(7) and again.label(7) == index.label(7)
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:  # another place in the same open files: theirs must not move
        os._exit(0 if [index.source(number) for number in range(8)] and index.source(0) == first else 1)
    assert index.source(0) == first


def test_no_more_than_so_many_shards_are_open(packed, tmp_path):
    whole = read_index(packed)
    video = whole.source(0)
    row = (packed / "shards.csv").read_text().splitlines()[2].split(",")
    copies = [str(shutil.copy(packed / row[0], tmp_path / f"{n}.tar")) for n in range(100)]
    index = ShardIndex((Member(n, *map(int, row[1:5]), row[5]) for n in range(100)), copies)
    before = len(os.listdir("/dev/fd"))
    for _ in range(2):
        assert all(index.source(n) == video for n in range(100))
    assert len(os.listdir("/dev/fd")) - before == 64
    del index
    assert len(os.listdir("/dev/fd")) == before


def test_a_million_videos_take_little_memory():
    members = (Member(n // 1000, n, 5, n, n % 400, f"{n:06d}.mp4") for n in range(1_000_000))
    index = ShardIndex(members, [f"/data/{n:06d}.tar" for n in range(1000)])
    assert index.path(999_999) == "/data/000999.tar!999999.mp4" and index.label(999_999) == 399
    assert len(pickle.dumps(index)) < 80e6


def failures(loader) -> dict[int, str]:
    """Reasons by the numbers of the videos, each of which is there once; those without a reason have frames."""
    items = list(loader)
    assert [item.index for item in items] == list(range(8))
    for item in items:
        assert (item.frames is None) == (item.failed is not None)
        assert item.failed is None or item.failed.path.endswith(f".tar!{item.index:06d}.mp4")
    return {item.index: item.failed.reason for item in items if item.failed}


def inside(index: VideoIndex, shard: str) -> list[int]:
    return [number for number in range(len(index)) if f"{shard}!" in index.path(number)]


def places(index: Path) -> dict[str, tuple[int, int]]:
    """Offset and size by name, from the rows of an index file."""
    rows = [line.split(",") for line in index.read_text().splitlines()[2:]]
    return {row[5]: (int(row[1]), int(row[2])) for row in rows}


def test_local_shards_are_checked_at_start(copy):
    os.truncate(copy / "000001.tar", 20_000)
    with pytest.raises(
        UserError, match=r"000001.tar: has 20000 bytes, but \d+ by .*shards.csv; copy it again, or make"
    ):
        read_index(copy)
    (copy / "000001.tar").unlink()
    with pytest.raises(
        UserError, match="000001.tar: .*shards.csv names this shard, but it cannot be read .No such file"
    ):
        read_index(copy)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_missing_shard_names_its_videos(copy, workers):
    cfg = cfg_of(copy, "DATA.RETRIES", "0", "NUM_WORKERS", workers)
    test, train = build_test_loader(cfg), build_train_loader(cfg)
    lost = inside(read_index(copy), "000001.tar")
    (copy / "000001.tar").unlink()
    assert failures(test) == dict.fromkeys(lost, "the shard cannot be read: No such file or directory")
    found = list(islice(train, 4))
    assert all(
        batch.frames.shape == (4, 4, 32, 32, 3) and not set(lost) & set(batch.indices.tolist()) for batch in found
    )
    named = {Path(failure.path).name for batch in found for failure in batch.failed}
    assert named == {f"000001.tar!{number:06d}.mp4" for number in lost}


def test_truncated_shard_loses_later_videos(copy):
    loader = build_test_loader(cfg_of(copy, "DATA.RETRIES", "0"))
    where = {
        number: places(copy / "shards.csv")[f"{number:06d}.mp4"] for number in inside(read_index(copy), "000000.tar")
    }
    last = max(where, key=lambda number: where[number][0])
    os.truncate(copy / "000000.tar", where[last][0] + 100)
    assert failures(loader) == {last: f"the shard ends before byte {sum(where[last])}: it is truncated"}


def test_replaced_shard_is_noticed(copy, packed):
    index, whole = read_index(copy), read_index(packed)
    with (
        tarfile.open(packed / "000000.tar") as old,
        tarfile.open(copy / "new", "w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for info in reversed(old.getmembers()):
            new.addfile(info, old.extractfile(info))
    assert (copy / "new").stat().st_size == (copy / "000000.tar").stat().st_size
    (copy / "new").rename(copy / "000000.tar")
    named = []
    for number in range(8):
        try:
            assert index.source(number) == whole.source(number), "the right video or an error"
        except DecodeError as error:
            assert str(error).startswith(index.path(number)) and "has changed since it was indexed" in str(error)
            named.append(number)
    assert named and set(named) <= set(inside(index, "000000.tar"))


def test_replaced_video_in_shard_is_noticed(video_folder, tmp_path):
    shutil.copytree(video_folder / "train", tmp_path / "v")
    video = tmp_path / "v" / "down" / "video 0.mp4"
    assert main(f"--list {tmp_path / 'v'} --output {tmp_path / 'a'}".split()) == 0
    time = int(video.stat().st_mtime)
    video.write_bytes(video.read_bytes()[:-1] + b"x")
    os.utime(video, (time + 1, time + 1))
    assert main(f"--list {tmp_path / 'v'} --output {tmp_path / 'b'}".split()) == 0
    shutil.copy(tmp_path / "b" / "000000.tar", tmp_path / "a")
    assert list(failures(build_test_loader(cfg_of(tmp_path / "a", "DATA.RETRIES", "0")))) == [0]


def test_servers_that_do_not_play_along(copy, packed):
    server = ShardServer(copy)
    try:
        index = read_index(server.url)
        number = inside(index, "000001.tar")[0]
        name = rf"^{server.url}/000001.tar!{number:06d}.mp4: the "
        server.ranges = False
        with pytest.raises(DecodeError, match=f"{name}server ignored the requested range"):
            index.source(number)
        server.ranges = True
        os.truncate(copy / "000001.tar", places(copy / "shards.csv")[f"{number:06d}.mp4"][0] + 7)
        with pytest.raises(DecodeError, match=f"{name}shard ends before byte"):
            index.source(number)
        os.truncate(copy / "000001.tar", 0)
        with pytest.raises(DecodeError, match=f"{name}shard cannot be read: .*416"):
            index.source(number)
        (copy / "000001.tar").unlink()
        with pytest.raises(DecodeError, match=f"{name}shard cannot be read: FileNotFoundError"):
            index.source(number)
        shutil.copy(packed / "000001.tar", copy)
        assert index.source(number) == read_index(packed).source(number)
    finally:
        server.stop()
    nobody = "http://127.0.0.1:1"
    with pytest.raises(DecodeError, match=f"{nobody}/000001.tar!{number:06d}.mp4: the shard cannot be read: .*onnect"):
        read_index(copy, root=nobody).source(number)
    with pytest.raises(UserError, match=f"{nobody}/shards.csv: the index of shards cannot be read .*check DATA.TRAIN"):
        read_index(nobody)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "truncated: 7 of 8 rows are there"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], r"shards.csv:10: expected shard,offset"),
        (lambda lines: [*lines[:3], lines[3].replace("0000", "x000", 1), *lines[4:]], r"shards.csv:4: expected shard"),
        (lambda lines: [lines[0], *lines[2:]], r"shards.csv:2: expected the columns shard,offset"),
        (lambda lines: ["# octvideo shards {", *lines[1:]], "not an index of shards; .*--index-only makes one"),
        (lambda lines: [re.sub(r'"classes": .*', '"classes": 5}', lines[0]), *lines[1:]], "not an index of shards"),
        (lambda lines: [*lines[:9], lines[9].replace(",1,", ",,")], "some videos have a label and some do not"),
        (lambda lines: [*lines[:9], lines[9].replace(",1,", ",2,")], "label 2 is not below the number of classes, 2"),
    ],
)
def test_a_bad_index_is_named(copy, change, message):
    lines = change((copy / "shards.csv").read_text().splitlines())
    (copy / "shards.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        read_index(copy)


def test_other_addresses_end_in_one_line(packed, capsys):
    for source, text in (
        ("nosuch://bucket/k400", "Protocol not known: nosuch"),
        ("memory://nothing/here", "memory://nothing/here/shards.csv: the index of shards cannot be read"),
    ):
        assert run(lambda _, source=source: build_train_loader(cfg_of(source)) and 0) == 2
        err = capsys.readouterr().err
        assert text in err and err.count("\n") == 1 and "check DATA.TRAIN" in err
    with pytest.raises(UserError, match="these are tar shards; check the videos that they were made from"):
        read_source(packed / "shards.csv")


def test_real_videos_decode_from_bytes(data, tmp_path):
    clips = sorted(path for path in (data / "clips").rglob("*") if path.suffix in (".mp4", ".avi", ".webm", ".mkv"))[
        :12
    ]
    (tmp_path / "list.txt").write_text("".join(f'"{path}"\n' for path in clips))
    assert main(f"--list {tmp_path / 'list.txt'} --output {tmp_path / 's'}".split()) == 0
    index = read_index(tmp_path / "s")
    assert len(index) == len(clips) >= 8 and set(index.labels.tolist()) == {-1}
    for number, path in enumerate(clips):
        with open_video(str(path)) as a, open_video(index.source(number), name=index.path(number)) as b:
            assert len(a) == len(b) and a.fps == b.fps
            assert np.array_equal(a.frames([0, len(a) // 2]), b.frames([0, len(b) // 2]))
