"""``octvideo compare``: the runs of twins, their table, and how it resumes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import environment
from runs import finish, log_lines, metrics, wait_for

from octvideo.analysis.pictures.compare import read_results
from octvideo.cli import run
from octvideo.cli.compare import main
from octvideo.engine.metrics import wilson_interval

TINY = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 16 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 "
    "DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40 TRAIN.STEPS 30 TRAIN.BATCH_SIZE 4 "
    "TRAIN.CHECKPOINT_EVERY 5 TRAIN.LOG_EVERY 1 TRAIN.EVAL_EVERY 0 TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 "
    "NUM_WORKERS 0 NUM_THREADS 1 DEVICE cpu"
).split()
RUNS = ("alpha-0/seed-3", "alpha-0/seed-4", "alpha-0.5x8/seed-3", "alpha-0.5x8/seed-4")


def arguments(videos: Path, output: Path, *overrides: str, alphas: Sequence[str] = ("0", "0.5x8")) -> list[str]:
    """Return the arguments of a tiny comparison with two seeds."""
    data = ["DATA.TRAIN", str(videos / "train"), "DATA.VAL", str(videos / "val"), "OUTPUT_DIR", str(output)]
    return ["--cfg", "small.yaml", "--seeds", "2", "--alphas", *alphas, *TINY, *data, "SEED", "3", *overrides]


def error_of(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """Return the line that a command with bad input ends in."""
    assert run(main, command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start the command in a new process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "octvideo", "compare", *command],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


class Compared(NamedTuple):
    """A comparison that was killed in its second run and then finished."""

    folder: Path
    first_log: bytes  # of the first run, when the comparison was killed
    out: str
    err: str


@pytest.fixture(scope="module")
def compared(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("twins") / "out"
    process = start(arguments(video_folder, folder))
    wait_for(folder / RUNS[1] / "checkpoints" / "step_00000010.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first_log = (folder / RUNS[0] / "log.jsonl").read_bytes()
    code, out, err = finish(start(arguments(video_folder, folder)))
    assert code == 0, err
    return Compared(folder, first_log, out, err)


def test_killed_comparison_resumes(compared: Compared) -> None:
    assert (compared.folder / RUNS[0] / "log.jsonl").read_bytes() == compared.first_log, "a finished run was repeated"
    assert "run 1 of 3" in compared.err and f"{RUNS[1]}{os.sep}checkpoints" in compared.err
    assert "resuming at step" in compared.err and "| 0.5x8 |" in compared.out
    assert all(log_lines(compared.folder / name, "train")[-1]["step"] == 30 for name in RUNS)


def test_twins_differ_in_octave_alone(compared: Compared) -> None:
    configs = {name: (compared.folder / name / "test_config.yaml").read_text().splitlines() for name in RUNS}
    vanilla, octave = (configs[name] for name in ("alpha-0/seed-3", "alpha-0.5x8/seed-3"))
    changed = {line.split(":")[0].strip() for line in {*vanilla} ^ {*octave}}
    assert changed == {"ALPHA", "MULTIPLE", "OUTPUT_DIR"}


def test_table_has_accuracy_and_cost(compared: Compared) -> None:
    found = json.loads((compared.folder / "compare.json").read_text())
    assert [twin["name"] for twin in found["twins"]] == ["0", "0.5x8"]
    for twin, folders in zip(found["twins"], (RUNS[:2], RUNS[2:])):
        top1 = [metrics(compared.folder / folder)["top1"] for folder in folders]
        assert list(twin["seeds"].values()) == top1 and list(twin["seeds"]) == ["3", "4"]
        assert twin["top1"] == pytest.approx(sum(top1) / 2) and twin["num_videos"] == 8
        assert twin["spread"] == pytest.approx(abs(top1[0] - top1[1]) / 2**0.5)
        assert twin["interval"] == pytest.approx(wilson_interval(round(twin["top1"] * 8 / 100), 8))
        assert twin["clip_ms"]["torch"] > 0 and twin["step_ms"] > 0
    vanilla, octave = found["twins"]
    assert octave["gflops"] < vanilla["gflops"] and octave["params_m"] == vanilla["params_m"]
    assert octave["difference"] == pytest.approx(octave["top1"] - vanilla["top1"]) and vanilla["difference"] is None


def test_page_and_csv_hold_the_same(compared: Compared) -> None:
    found = json.loads((compared.folder / "compare.json").read_text())
    page = (compared.folder / "compare.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| 0")]
    assert len(rows) == 2 and "N = 8 videos" in page
    assert all(f"{twin['top1']:.2f}" in row for twin, row in zip(found["twins"], rows))
    with (compared.folder / "compare.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in table] == [twin["top1"] for twin in found["twins"]]
    assert [row.alpha for row in read_results([compared.folder / "compare.csv"])] == [0, 0.5]
    assert (compared.folder / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.full
def test_jobs_run_what_is_left(compared: Compared, video_folder: Path) -> None:
    command = ["--submit", "--gpus-per-node", "0", "--cluster", "local", "--wait"]
    logs = {name: (compared.folder / name / "log.jsonl").read_bytes() for name in RUNS}
    code, out, err = finish(start([*command, *arguments(video_folder, compared.folder, alphas=("0", "0.5x8", "1"))]))
    assert code == 0, err
    assert out.count(": files in") == 2 and "| 1 |" in out
    assert logs == {name: (compared.folder / name / "log.jsonl").read_bytes() for name in RUNS}


def test_other_settings_are_refused(compared: Compared, video_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, arguments(video_folder, compared.folder, "MODEL.DROPOUT", "0.9")) == 2
    assert "MODEL.DROPOUT" in capsys.readouterr().err
    # Fewer steps are ignored by a finished run; its results are not those of this comparison.
    assert run(main, arguments(video_folder, compared.folder, "TRAIN.STEPS", "2")) == 2
    assert "TRAIN.STEPS" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("alphas", "overrides", "message"),
    [
        (["many"], [], "--alphas many: it must be like 0.25 or 0.125x16"),
        (["0", "1.5"], [], "OCTAVE.ALPHA is 1.5"),
        (["0.5", "0.50x1"], [], "0.50x1 is given twice"),
        (["0.5"], ["OCTAVE.MULTIPLE", "16"], "OCTAVE.MULTIPLE: --alphas sets it"),
        (["0.5"], ["TRAIN.PATIENCE", "2"], "TRAIN.PATIENCE is 2"),
        (["0.5"], ["TEST.ENABLE", "False"], "TEST.ENABLE is False"),
        (["0.5"], ["MODEL.WIDTHS", "16"], "unknown key MODEL.WIDTHS"),
    ],
)
def test_bad_input_is_one_line(
    video_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    alphas: list[str],
    overrides: list[str],
    message: str,
) -> None:
    assert message in error_of(capsys, arguments(video_folder, tmp_path / "out", *overrides, alphas=alphas))
    assert not (tmp_path / "out").exists()


def test_submit_needs_gpus(video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--gpus-per-node" in error_of(capsys, ["--submit", *arguments(video_folder, tmp_path / "out")])


def test_several_processes_are_refused(
    video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert "started as 2 processes" in error_of(capsys, arguments(video_folder, tmp_path / "out"))
