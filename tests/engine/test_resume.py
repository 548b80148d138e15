"""The record in OUTPUT_DIR says what happened: what a resumed run may change, and what a command may write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.config import load_cfg
from octvideo.data import VideoIndex, read_index
from octvideo.engine.resume import KEYS

_DONE = ["TRAIN.STEPS", "2", "TEST.ENABLE", "False"]
Run = Callable[..., list[str]]


def call(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    return run(main, arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def saved(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def config_of(folder: Path) -> Any:
    return load_cfg(folder / "config.yaml")


@pytest.fixture
def finished(
    small_run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The folder of a training of two steps."""
    kept = tmp_path_factory.getbasetemp() / "training_of_two_steps"
    if not kept.is_dir():
        assert call(small_run(str(kept), *_DONE)) == 0
    shutil.copytree(kept, tmp_path / "out")
    capsys.readouterr()
    return tmp_path / "out"


def leaves(node: dict, prefix: str = "") -> list[str]:
    return [
        name
        for key, value in node.items()
        for name in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
    ]


def test_every_key_is_of_one_kind() -> None:
    for key in leaves(load_cfg()):
        kinds = [kind for kind, names in KEYS.items() for name in names if key == name or key.startswith(f"{name}.")]
        assert len(kinds) == 1, (key, kinds)


def test_a_finished_run_ignores_other_settings(
    small_run: Run, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(finished)
    others = ["SOLVER.BASE_LR", "3e-6", "TRAIN.CHECKPOINT", "some.pt", "NUM_WORKERS", "1", "TRAIN.EMA", "0.5"]
    others += ["DATA.COLOR_JITTER", "0.0"]
    assert call(small_run("out", *_DONE, *others)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{finished}/checkpoints: step 2 of 2 is done, nothing is left to train",
        "NUM_WORKERS is 1, the finished run had 0: ignored, nothing is left to train",
        "DATA.COLOR_JITTER is 0.0, the finished run had 0.2: ignored, nothing is left to train",
        "TRAIN.EMA is 0.5, the finished run had 0.0: ignored, nothing is left to train",
        "SOLVER.BASE_LR is 3e-06, the finished run had 0.002: ignored, nothing is left to train",
        "TRAIN.CHECKPOINT is some.pt: ignored, nothing is left to train",
    ]
    assert content(finished) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["OCTAVE.ALPHA", "0"], "OCTAVE.ALPHA 0.25, this run 0.0: choose another OUTPUT_DIR, or set TRAIN.RESUME F"),
        (["SEED", "5", "DATA.NUM_FRAMES", "8"], "SEED 0, this run 5; DATA.NUM_FRAMES 4, this run 8: choose another"),
        (["TRAIN.STEPS", "9", "DATA.FLIP", "0"], "DATA.FLIP 0.5, this run 0.0"),
        (["TRAIN.STEPS", "9", "TRAIN.BATCH_SIZE", "2"], "TRAIN.BATCH_SIZE 4, this run 2"),
        (["DATA.TRAIN", "fewer"], "has 7 videos, its checkpoints have 8: choose another"),
        (["DATA.TRAIN", "renamed"], "'right' missing, 'up' new"),
        (["TEST.ENABLE", "True", "DATA.TEST", "nowhere"], "nowhere: no such list file"),
        (["TRAIN.RESUME", "False", "TRAIN.CHECKPOINT", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["TRAIN.RESUME", "False", "TRAIN.COMPILE", "nobody"], "TRAIN.COMPILE is nobody"),
        (["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "DATA.VAL", "nowhere"], "nowhere: no such list file"),
    ],
)
def test_a_refused_command_writes_nothing(
    small_run: Run,
    finished: Path,
    video_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {"fewer", "renamed"} & {*overrides}:
        shutil.copytree(video_folder / "train", tmp_path / name)
    if "fewer" in overrides:
        (tmp_path / "fewer" / "right" / "video 0.mp4").unlink()
    if "renamed" in overrides:
        (tmp_path / "renamed" / "right").rename(tmp_path / "renamed" / "up")
    before = content(finished)
    assert call(small_run("out", *_DONE, *overrides)) == 2
    assert message in capsys.readouterr().err
    assert content(finished) == before
    if "nowhere" in " ".join(overrides):
        assert call(small_run("new", *_DONE, *overrides)) == 2
        assert not (tmp_path / "new").exists()


def test_resume_reports_what_changes(
    small_run: Run, finished: Path, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list has moved, which is no change; the new weight decay acts, and the record has it."""
    newest = finished / "checkpoints" / "step_00000002.pt"
    torch.save({**torch.load(newest, weights_only=True), "ranks": 4}, newest)
    shutil.copytree(video_folder / "train", tmp_path / "moved")
    before = (finished / "config.yaml").read_bytes()
    more = ["TRAIN.STEPS", "3", "SOLVER.WEIGHT_DECAY", "0.5", "DATA.TRAIN", str(tmp_path / "moved")]
    # The loss of a first step that fails: the weights are still those of the old settings, and so is the record.
    assert call(small_run("out", *_DONE, *more, "SOLVER.BASE_LR", "1e300", "SOLVER.WARMUP_START", "1e300")) == 2
    assert (finished / "config.yaml").read_bytes() == before
    capsys.readouterr()
    assert call(small_run("out", *_DONE, *more, "TRAIN.CHECKPOINT", "some.pt")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:5] == [
        "TRAIN.STEPS is 3 from here on, it was 2",
        "SOLVER.WEIGHT_DECAY is 0.5 from here on, it was 0.0001",
        "TRAIN.CHECKPOINT is some.pt: ignored, the run resumes from its own checkpoint",
        "1 process(es) from here on, it was 4",
        f"resuming at step 2 from {finished}/checkpoints",
    ]
    state = saved(finished, "step_00000003.pt")
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    cfg = config_of(finished)
    assert (cfg.TRAIN.CHECKPOINT, cfg.SOLVER.WEIGHT_DECAY) == ("", 0.5)
    assert "WEIGHT_DECAY: 0.5" in saved(finished)["config"] and saved(finished)["ranks"] == 1


def test_a_missing_last_checkpoint_has_the_settings_that_made_it(
    small_run: Run, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(finished)
    whole = saved(finished)
    for kind in ("missing", "older", "broken"):
        last = finished / "checkpoints" / "last.pt"
        last.unlink()
        if kind == "older":
            torch.save({**whole, "step": 1}, last)
        elif kind == "broken":
            last.write_bytes(b"broken")
        assert call(small_run("out", *_DONE, "SOLVER.BASE_LR", "1e-6", "TRAIN.EMA", "0.9")) == 0
        again = saved(finished)
        assert again.keys() == whole.keys() and again["config"] == whole["config"] and again["step"] == 2
        assert all(torch.equal(again["model"][key], value) for key, value in whole["model"].items())
        assert (finished / "config.yaml").read_bytes() == before["config.yaml"]


def test_a_test_has_a_record_of_its_own(small_run: Run, finished: Path, tmp_path: Path) -> None:
    before = content(finished)
    test = ["TRAIN.ENABLE", "False", "TEST.NUM_CLIPS", "1", "TEST.NUM_CROPS", "1"]
    assert call(small_run("out", *test, "SOLVER.BASE_LR", "7")) == 0
    after = content(finished)
    assert after["config.yaml"] == before["config.yaml"]
    assert all(after[name] == before[name] for name in before if name.startswith("checkpoints"))
    assert load_cfg(finished / "test_config.yaml").TEST.NUM_CLIPS == 1
    assert call(small_run("alone", *test, "TEST.CHECKPOINT", str(finished / "checkpoints" / "last.pt"))) == 0
    assert config_of(tmp_path / "alone").TEST.NUM_CLIPS == 1


def test_checkpoints_of_older_versions_resume(
    small_run: Run, finished: Path, tmp_path: Path, video_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (finished / "checkpoints").glob("*.pt"):
        payload = torch.load(path, weights_only=True)
        payload["config"] = payload["config"].replace("  EMA: 0.0\n", "  GONE: 1\n")
        torch.save({key: value for key, value in payload.items() if key not in ("videos", "ranks")}, path)
    shutil.copytree(video_folder / "train", tmp_path / "moved")
    assert call(small_run("out", *_DONE, "TRAIN.STEPS", "3", "DATA.TRAIN", str(tmp_path / "moved"))) == 0
    line = (
        f"DATA.TRAIN is {tmp_path / 'moved'} from here on, it was {video_folder / 'train'}; the checkpoint does not say"
    )
    assert line in capsys.readouterr().err
    assert saved(finished)["step"] == 3


def test_epochs_are_resolved_in_the_record(small_run: Run, tmp_path: Path) -> None:
    assert call(small_run("out", "TRAIN.EPOCHS", "1", "TEST.ENABLE", "False")) == 0
    assert config_of(tmp_path / "out").TRAIN.STEPS == 2


def test_a_fingerprint_is_of_paths_labels_and_order(video_folder: Path, tmp_path: Path) -> None:
    rows = [("/a/x/1.mp4", 0), ("/a/y/2.mp4", 1)]

    def of(rows: list[tuple[str, int]], root: str = "") -> str:
        paths, labels = zip(*rows)
        return VideoIndex(paths, labels, root=root).fingerprint()

    same = of(rows)
    assert of([("x/1.mp4", 0), ("y/2.mp4", 1)], "/b") == same == of([("/long/b/x/1.mp4", 0), ("/long/b/y/2.mp4", 1)])
    others = [rows[::-1], rows[:1], [rows[0], ("/a/y/3.mp4", 1)], [rows[0], ("/a/y/2.mp4", 0)], [*rows, rows[0]]]
    assert len({same, *map(of, others)}) == len(others) + 1
    folder = read_index(video_folder / "train")
    lines = [f"{folder.path(number)},{folder.label(number)}\n" for number in range(len(folder))]
    (tmp_path / "list.csv").write_text("".join(lines))
    assert read_index(tmp_path / "list.csv").fingerprint() == folder.fingerprint()
    assert VideoIndex([], []).fingerprint() != same
