"""Runs from the command line: train, kill, resume, test; one process and two; what goes wrong."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import HELPERS, run_script, start

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.config import load_cfg
from octvideo.models import build_model


def call(arguments):
    torch.set_num_threads(1)
    return run(main, arguments)


def finish(process, timeout=240):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def weights(folder, name="last.pt"):
    return torch.load(folder / "checkpoints" / name, weights_only=True)["model"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def wait_for(path, process, timeout=240):
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.02)


def test_a_run_leaves_what_it_promises(small_run, tmp_path, capsys):
    assert call(small_run("out", "TRAIN.EVAL_EVERY", "6")) == 0
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_videos"] == 8 and metrics["num_failed"] == 0 and 0 <= metrics["top1"] <= 100
    assert metrics["top5"] == 100 and set(metrics["per_class"]) == {"down", "right"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [3, 6, 9, 12]
    keys = {"loss", "top1", "lr", "grad_norm", "data_time", "step_time", "clips_per_second", "eta_seconds"}
    assert keys <= train[0].keys()
    assert [line["step"] for line in lines if line["kind"] == "val"] == [6, 12]
    assert sum(line["kind"] == "test" for line in lines) == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "best.pt", "last.pt", "step_00000009.pt", "step_00000012.pt",
    ]  # fmt: skip
    assert load_cfg(out / "config.yaml").TRAIN.STEPS == 12
    assert list((out / "tensorboard").glob("events.out.tfevents*"))
    assert (out / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    rows = (out / "predictions.csv").read_text().splitlines()
    assert len(rows) == 9 and rows[0].startswith("path,label,prediction1,score1")
    assert len((out / "confusion_matrix.csv").read_text().splitlines()) == 3
    for name in ("best.pt", "last.pt"):
        payload = torch.load(out / "checkpoints" / name, weights_only=True)
        assert payload["classes"] == ["down", "right"] and "ALPHA: 0.25" in payload["config"]
        assert list(payload["model"]) == list(build_model(load_cfg(out / "config.yaml")).state_dict())
    # Testing by itself gives the same; so does another chunk size.
    capsys.readouterr()
    checkpoint = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(out / "checkpoints" / "last.pt")]
    assert call(small_run("again", *checkpoint, "TEST.MAX_VIEWS", "2")) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == metrics


def test_it_learns_which_way_things_move(small_run, tmp_path):
    """The two classes differ in motion and in nothing else that a crop shows reliably."""
    steps = ["TRAIN.STEPS", "90", "TRAIN.CHECKPOINT_EVERY", "90", "TRAIN.BATCH_SIZE", "8", "SOLVER.WARMUP_STEPS", "10"]
    assert call(small_run("out", *steps)) == 0
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in losses if line["kind"] == "train"]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["top1"] >= 87


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_killed_and_resumed_is_bit_identical(small_run, tmp_path, processes):
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


def test_processes_that_find_different_checkpoints_do_not_go_on(small_run, tmp_path):
    arguments = small_run("out", "OUTPUT_DIR", "out", "TEST.ENABLE", "False", "TRAIN.STEPS", "3")

    def train():
        return run_script(HELPERS / "own_folders.py", tmp_path / "nodes", *arguments, processes=2)

    first = train()
    assert first.returncode == 0, first.stderr  # nothing to go on from, on either
    assert not (tmp_path / "nodes" / "1" / "out" / "checkpoints").exists(), "the first process writes"
    again = train()
    assert again.returncode != 0
    message = "out/checkpoints: the first process finds a checkpoint of step 3, process 1 one of step 0 (0: none)"
    assert message in again.stderr


def test_sigterm_finishes_the_step_and_writes_a_checkpoint(small_run, tmp_path):
    process = start(small_run("out", "TRAIN.STEPS", "5000", "TRAIN.CHECKPOINT_EVERY", "4000"))
    wait_for(tmp_path / "out" / "log.jsonl", process)
    while "train" not in (tmp_path / "out" / "log.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM and "stopped at step" in err, err
    assert len(list((tmp_path / "out" / "checkpoints").glob("step_*.pt"))) == 1


def test_a_broken_checkpoint_is_passed_over(small_run, tmp_path, capsys):
    assert call(small_run("out", "TEST.ENABLE", "False")) == 0
    checkpoints = tmp_path / "out" / "checkpoints"
    (checkpoints / "last.pt").unlink()
    newest = checkpoints / "step_00000012.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    (checkpoints / ".4711.step_00000012.pt").write_bytes(b"of a killed process")
    assert call(small_run("out", "TEST.ENABLE", "False")) == 0
    warning = re.compile(r"step_00000012\.pt: not a readable checkpoint.*using the one before")
    assert warning.search(capsys.readouterr().err) and warning.search((tmp_path / "out" / "log.jsonl").read_text())
    assert not list(checkpoints.glob(".*"))
    whole = small_run("whole", "TEST.ENABLE", "False")
    assert call(whole) == 0
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_starting_anew_keeps_the_earlier_run(small_run, tmp_path):
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
    assert call(small_run("out", *anew[:2], "TRAIN.STEPS", "6", "SEED", "1")) == 0  # goes on from the new run


def test_two_processes_give_the_metrics_of_one(small_run, video_folder, tmp_path):
    assert call(small_run("train", "TEST.ENABLE", "False")) == 0
    videos = sorted((video_folder / "val").rglob("*.mp4"))[:-1]  # seven: one process has one more than the other
    (tmp_path / "test.csv").write_text("".join(f"{path} {int(path.parent.name == 'right')}\n" for path in videos))
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "train" / "checkpoints" / "last.pt")]
    test += ["DATA.TEST", str(tmp_path / "test.csv")]
    assert call(small_run("one", *test)) == 0
    code, _, err = finish(start(small_run("two", *test), processes=2))
    assert code == 0, err
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["num_videos"] == len(videos) == 7
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_two_processes_test_the_network_they_save(small_run, tmp_path):
    """Batch norm's statistics differ between the ranks after a step, until they are shared."""
    code, _, err = finish(start(small_run("trained", "SOLVER.BASE_LR", "2e-2"), processes=2))
    assert code == 0, err
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "trained" / "checkpoints" / "last.pt")]
    assert call(small_run("alone", *test)) == 0
    trained, alone = ((tmp_path / name / "predictions.csv").read_text() for name in ("trained", "alone"))
    assert trained == alone


def test_accumulation_is_the_whole_batch(small_run, tmp_path):
    """With batch norm a part has its own statistics, so one video fills the batch: all parts are then alike."""
    more = [
        "TRAIN.STEPS",
        "1",
        "TEST.ENABLE",
        "False",
        "DATA.FLIP",
        "0",
        "DATA.COLOR_JITTER",
        "0",
        "MODEL.DROPOUT",
        "0",
    ]
    norms = []
    for parts in ("1", "2"):
        assert call(small_run(f"a{parts}", *more, "TRAIN.ACCUMULATE", parts, "TRAIN.LOG_EVERY", "1")) == 0
        lines = (tmp_path / f"a{parts}" / "log.jsonl").read_text().splitlines()
        norms.append(next(json.loads(line) for line in lines if '"train"' in line))
    assert norms[0]["loss"] == pytest.approx(norms[1]["loss"], rel=0.05)


def test_warm_start_replaces_the_head_and_says_so(small_run, tmp_path, capsys):
    assert call(small_run("first", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    first = str(tmp_path / "first" / "checkpoints" / "last.pt")
    capsys.readouterr()
    (tmp_path / "five.txt").write_text("down\nleft\nright\nturn\nup\n")
    classes = ["DATA.CLASSES", str(tmp_path / "five.txt"), "MODEL.NUM_CLASSES", "0"]
    more = ["TRAIN.CHECKPOINT", first, *classes, "TRAIN.STEPS", "1", "OCTAVE.ALPHA", "0.5"]
    assert call(small_run("second", *more)) == 0
    assert "2 replaced: blocks.6.proj.weight" in capsys.readouterr().err
    assert call(small_run("third", "TRAIN.CHECKPOINT", first, "MODEL.WIDTH", "16")) == 2
    assert "the weights are of another network" in capsys.readouterr().err


def test_mixed_precision_and_clipping(small_run, tmp_path, capsys):
    more = ["TRAIN.PRECISION", "bf16", "TRAIN.CLIP_GRAD_NORM", "0.1", "SOLVER.OPTIMIZER", "sgd", "TRAIN.STEPS", "3"]
    assert call(small_run("out", *more)) == 0
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "out").values())
    with torch.profiler.profile() as seen:
        torch.nn.Conv2d(8, 8, 3).bfloat16()(torch.zeros(1, 8, 9, 9, dtype=torch.bfloat16))
    fallback = any("slow_conv" in event.key for event in seen.key_averages())
    assert ("this CPU has no bf16" in capsys.readouterr().err) == fallback


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TRAIN.ENABLE", "False", "TEST.ENABLE", "False"], "nothing to do"),
        (["TRAIN.PRECISION", "fp16"], "TRAIN.PRECISION is fp16"),
        (["DATA.TRAIN", "absent.csv"], "absent.csv: no such list file"),
        (["MODEL.NUM_CLASSES", "1"], "set MODEL.NUM_CLASSES 2"),
        (["TRAIN.CHECKPOINT", "absent.pt"], "absent.pt: no such checkpoint"),
        (["TRAIN.ENABLE", "False"], "no such checkpoint; set TEST.CHECKPOINT"),
        (["SOLVER.BASE_LR", "1e18", "SOLVER.OPTIMIZER", "sgd"], "lower SOLVER.BASE_LR"),
        (["TRAIN.STEP", "3"], "unknown key TRAIN.STEP; did you mean TRAIN.STEPS"),
        (["OUTPUT_DIR", "/proc/nowhere"], "OUTPUT_DIR /proc/nowhere: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(small_run, overrides, message, capsys):
    assert call(small_run("out", *overrides)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")


def test_the_octave_twin_does_not_resume_the_vanilla_run(small_run, capsys):
    assert call(small_run("out", "TRAIN.STEPS", "3", "TEST.ENABLE", "False")) == 0
    assert call(small_run("out", "TRAIN.STEPS", "3", "OCTAVE.ALPHA", "0")) == 2
    assert "OCTAVE.ALPHA 0.25, this run 0.0: choose another OUTPUT_DIR" in capsys.readouterr().err


def test_failed_videos_are_listed(small_run, video_folder, tmp_path, capsys):
    shutil.copytree(video_folder, tmp_path / "v")
    broken = tmp_path / "v" / "val" / "right" / "video 2.mp4"
    broken.write_bytes(b"broken")
    assert call(small_run("train", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    checkpoint = str(tmp_path / "train" / "checkpoints" / "last.pt")
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", checkpoint, "DATA.VAL", str(tmp_path / "v" / "val")]
    assert call(small_run("out", *test, "DATA.MAX_FAILED", "0.2")) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_failed"] == 1 and metrics["num_videos"] == 8
    assert metrics["failed"][0]["path"] == str(broken)
    assert call(small_run("out", *test)) == 2
    assert "1 of 8 videos cannot be read" in capsys.readouterr().err


def test_a_test_takes_the_class_order_of_its_checkpoint(small_run, video_folder, tmp_path, capsys):
    """A folder that lacks a class, and a file of names in another order: the scores stay with their names."""
    assert call(small_run("train", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "train" / "checkpoints" / "last.pt")]

    def rows(output, *overrides):
        assert call(small_run(output, *test, *overrides)) == 0
        with (tmp_path / output / "predictions.csv").open(newline="") as file:
            return {Path(row.pop("path")).name + row["label"]: row for row in csv.DictReader(file)}

    whole = rows("whole")
    assert {row["label"] for row in whole.values()} == {"down", "right"}
    shutil.copytree(video_folder / "val" / "right", tmp_path / "videos" / "right")
    part = rows("part", "DATA.VAL", str(tmp_path / "videos"))
    assert part == {key: row for key, row in whole.items() if row["label"] == "right"} and len(part) == 4
    (tmp_path / "names.txt").write_text("right\ndown\n")
    assert rows("turned", "DATA.CLASSES", str(tmp_path / "names.txt")) == whole
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "turned")]
    assert metrics[0]["per_class"] == metrics[1]["per_class"] and metrics[0]["top1"] == metrics[1]["top1"]

    shutil.move(tmp_path / "videos" / "right", tmp_path / "videos" / "up")
    assert call(small_run("other", *test, "DATA.VAL", str(tmp_path / "videos"))) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has the class 'up', which" in error and "('down', 'right', ...): set DATA.CLASSES" in error
