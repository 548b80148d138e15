"""Resuming: bit-exact, what may change, and what a command may write."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import HELPERS, run_script, start
from runs import EVERYTHING, call, equal, finish, wait_for, weights

from octvideo.config import load_cfg
from octvideo.data import VideoIndex, read_index
from octvideo.engine.resume import KEYS

_DONE = ["TRAIN.STEPS", "2", "TEST.ENABLE", "False"]
_SHORT = ["TRAIN.STEPS", "2", "TRAIN.CHECKPOINT_EVERY", "1", "TEST.ENABLE", "False"]
Run = Callable[..., list[str]]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def saved(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def config_of(folder: Path) -> Any:
    return load_cfg(folder / "config.yaml")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_resume_is_bit_exact(small_run, tmp_path, processes):
    more = ["TRAIN.STEPS", "40", "TRAIN.CHECKPOINT_EVERY", "4", "TEST.ENABLE", "False", "NUM_WORKERS", "1"]
    code, _, err = finish(start(small_run("whole", *more), processes))
    assert code == 0, err
    killed = start(small_run("killed", *more), processes)
    checkpoints = tmp_path / "killed" / "checkpoints"
    wait_for(checkpoints / "step_00000008.pt", killed)
    if processes == 1:
        killed.kill()
    else:  # one rank dies: the whole job must end
        ranks = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-9", ranks[-1]], check=True)
    killed.communicate(timeout=240)
    assert killed.returncode != 0 and not (checkpoints / "last.pt").exists()
    code, _, err = finish(start(small_run("killed", *more), processes))
    assert code == 0 and "resuming at step" in err, err
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_resume_with_all_options_is_bit_exact(small_run, tmp_path):
    steps = ["TRAIN.STEPS", "6", "TRAIN.CHECKPOINT_EVERY", "3", "TRAIN.LOG_EVERY", "1"]
    assert call(small_run("whole", *EVERYTHING, *steps)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("last.pt", "step_00000006.pt"):
        (tmp_path / "resumed" / "checkpoints" / name).unlink()
    assert call(small_run("resumed", *EVERYTHING, *steps, "NUM_WORKERS", "1")) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = [json.loads(line) for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    assert losses[3:6] == losses[6:] and [step for step, _ in losses] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert all(0 <= line["top1"] <= 100 for line in lines if line["kind"] == "train")


def test_ranks_with_different_checkpoints_refuse(small_run, tmp_path):
    arguments = small_run("out", "OUTPUT_DIR", "out", "TEST.ENABLE", "False", "TRAIN.STEPS", "3")

    def train():
        return run_script(HELPERS / "own_folders.py", tmp_path / "nodes", *arguments, processes=2)

    first = train()
    assert first.returncode == 0, first.stderr  # no rank has a checkpoint to resume from
    assert not (tmp_path / "nodes" / "1" / "out" / "checkpoints").exists(), "the first process writes"
    again = train()
    assert again.returncode != 0
    message = "out/checkpoints: the first process finds a checkpoint of step 3, process 1 one of step 0 (0: none)"
    assert message in again.stderr


def test_new_start_keeps_earlier_run(small_run, tmp_path):
    assert call(small_run("out", "TEST.ENABLE", "False")) == 0
    anew = ["TEST.ENABLE", "False", "TRAIN.RESUME", "False", "TRAIN.STEPS", "6", "SEED", "1"]
    assert call(small_run("out", *anew)) == 0
    names = [
        sorted(path.name for path in (tmp_path / "out" / folder).iterdir())
        for folder in ("checkpoints", "checkpoints.1")
    ]
    assert names == [
        ["last.pt", "step_00000003.pt", "step_00000006.pt"], ["last.pt", "step_00000009.pt", "step_00000012.pt"],
    ]  # fmt: skip
    assert call(small_run("out", *anew[:2], "TRAIN.STEPS", "6", "SEED", "1")) == 0  # resumes the new run


def test_octave_does_not_resume_vanilla(small_run, capsys):
    assert call(small_run("out", "TRAIN.STEPS", "3", "TEST.ENABLE", "False")) == 0
    assert call(small_run("out", "TRAIN.STEPS", "3", "OCTAVE.ALPHA", "0")) == 2
    assert "OCTAVE.ALPHA 0.25, this run 0.0: choose another OUTPUT_DIR" in capsys.readouterr().err


def test_other_optimiser_is_refused(
    small_run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(small_run("out", *_SHORT)) == 0
    assert "learning rate 0.002 for a batch of 4, not scaled" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "SOLVER.OPTIMIZER", "sgd")) == 2
    assert "SOLVER.OPTIMIZER adamw, this run sgd: choose another OUTPUT_DIR" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "SEED", "5", "TRAIN.BATCH_SIZE", "2")) == 2
    assert "its checkpoints have SEED 0, this run 5; TRAIN.BATCH_SIZE 4, this run 2: choose" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "TRAIN.STEPS", "3", "SOLVER.BASE_BATCH_SIZE", "8")) == 0
    err = capsys.readouterr().err
    assert "TRAIN.STEPS is 3 from here on, it was 2\n" in err
    assert "SOLVER.BASE_BATCH_SIZE is 8 from here on, it was 0\n" in err
    assert "learning rate 0.001 for a batch of 4 (SOLVER.BASE_LR 0.002 x 4 / 8)" in err
    last = tmp_path / "out" / "checkpoints" / "last.pt"
    torch.save({**torch.load(last, weights_only=True), "classes": 3}, last)
    assert call(small_run("test", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(last))) == 2
    assert "last.pt: its classes are not a list of names" in capsys.readouterr().err


@pytest.fixture
def finished(
    small_run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> Path:
    """Return the folder of a training of two steps."""
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


def test_finished_run_ignores_other_settings(
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
def test_refused_command_writes_nothing(
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
    """A moved list is no change; a new weight decay acts and is recorded."""
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


def test_missing_last_checkpoint_is_restored(
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


def test_test_records_its_configuration(small_run: Run, finished: Path, tmp_path: Path) -> None:
    before = content(finished)
    test = ["TRAIN.ENABLE", "False", "TEST.NUM_CLIPS", "1", "TEST.NUM_CROPS", "1"]
    assert call(small_run("out", *test, "SOLVER.BASE_LR", "7")) == 0
    after = content(finished)
    assert after["config.yaml"] == before["config.yaml"]
    assert all(after[name] == before[name] for name in before if name.startswith("checkpoints"))
    assert load_cfg(finished / "test_config.yaml").TEST.NUM_CLIPS == 1
    assert call(small_run("alone", *test, "TEST.CHECKPOINT", str(finished / "checkpoints" / "last.pt"))) == 0
    assert config_of(tmp_path / "alone").TEST.NUM_CLIPS == 1


def test_older_checkpoints_resume(
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


def test_epochs_are_recorded_as_steps(small_run: Run, tmp_path: Path) -> None:
    assert call(small_run("out", "TRAIN.EPOCHS", "1", "TEST.ENABLE", "False")) == 0
    assert config_of(tmp_path / "out").TRAIN.STEPS == 2


def test_fingerprint_covers_paths_labels_and_order(video_folder: Path, tmp_path: Path) -> None:
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
