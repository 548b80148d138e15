"""The report of a run: what it says, what it escapes, and what it does without."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import av
import pytest
from runs import call

from octvideo.analysis.report import write_report
from octvideo.analysis.report_commands import next_commands
from octvideo.analysis.report_cost import measure_costs
from octvideo.analysis.report_pictures import copy_small
from octvideo.analysis.report_results import read_curves
from octvideo.cli import run as run_command
from octvideo.cli.main import main
from octvideo.config import load_cfg, save_cfg, with_keys
from octvideo.engine.metrics import wilson_interval
from octvideo.errors import UserError

DOWN, RIGHT = '<b>"down" & out', "打篮球 right's $x$"
TINY = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 OCTAVE.ALPHA 0.25 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 "
    "DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40 TRAIN.STEPS 4 TRAIN.BATCH_SIZE 4 "
    "TRAIN.LOG_EVERY 1 TRAIN.EVAL_EVERY 2 TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 NUM_WORKERS 0 NUM_THREADS 1 DEVICE cpu"
).split()


class Page(HTMLParser):
    """A page as a browser sees it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.files: list[str] = []
        self.commands: list[str] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.files += [unquote(value) for name, value in attributes if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1] if self.tags else ""
        if tag == "pre" and data.strip():
            self.commands.append(data)
        if tag != "style":
            self.text += data.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def run(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on videos in folders with hostile names, and with one broken video."""
    folder = tmp_path_factory.mktemp("report & run's")
    for split in ("train", "val"):
        for old, new in (("down", DOWN), ("right", RIGHT)):
            shutil.copytree(video_folder / split / old, folder / "data" / split / new)
    (folder / "data" / "val" / DOWN / "<i>broken.mp4").write_bytes(b"no video")
    data = ["DATA.TRAIN", str(folder / "data" / "train"), "DATA.VAL", str(folder / "data" / "val")]
    config = folder / "tiny.yaml"
    config.write_text("MODEL: {ARCH: i3d}\n")
    keys = ["DATA.MAX_FAILED", "0.5", "OUTPUT_DIR", str(folder / "out 1")]
    assert call(["--cfg", str(config), *data, *TINY, *keys]) == 0
    return folder / "out 1"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of what the run has left, without the report and the checkpoints."""
    return Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report*", "checkpoints")))


def rewrite(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change each row of ``predictions.csv``."""
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe 1998, table I, method 3 (81 of 263, 15 of 148, 0 of 20, 1 of 29), and 9 of 9.
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18), (9, 9, 70.08, 100)],
)
def test_wilson_interval_matches_published_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_report_shows_the_run(run: Path) -> None:
    page, metrics = Page(run / "report.html"), json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    low, high = wilson_interval(round(metrics["top1"] * 8 / 100), 8)
    assert f"{metrics['top1']:.1f} %" in page.text and f"{low:.1f} % to {high:.1f} %" in page.text
    assert "gets 50.0 %" in page.text and "oct_i3d on data/val" in " ".join(page.text.split())
    assert "no video" not in page.text and "<i>broken.mp4" in page.text and "random weights" in page.text
    assert "chosen on these clips" not in page.text and "4 steps, 4 clips each" in page.text
    assert "median of N = 20 rounds" in page.text
    local = [run / file for file in page.files]
    assert all(path.is_file() for path in local), "the page refers to files beside it only"
    assert {"curves.svg", "confusion_matrix.png"} <= {path.name for path in local}
    assert {path.name for path in (run / "report").iterdir()} <= {path.name for path in local}


def test_names_are_escaped(run: Path) -> None:
    page = Page(run / "report.html")
    assert DOWN in page.text and RIGHT in page.text
    assert not {"script", "i3d", "link", "iframe"} & {*page.tags}
    assert "<b>&#34;down&#34;" not in (run / "report.html").read_text(encoding="utf-8")


def test_mistakes_are_small_clips(run: Path, copied: Path) -> None:
    def mistake(row: dict[str, str]) -> None:
        if row["label"]:
            row["prediction1"] = next(name for name in (DOWN, RIGHT) if name != row["label"])

    rewrite(copied, mistake)
    page = Page(write_report(copied))
    clips = [file for file in page.files if file.endswith(".mp4")]
    assert len(clips) == 6 and "6 of 8" in page.text and page.tags.count("video") == 6
    for clip in clips:
        with av.open(str(copied / clip)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert sum(1 for _ in container.decode(video=0)) == 24


def test_long_videos_become_short_clips(make_video: Callable[..., Path], tmp_path: Path) -> None:
    import numpy as np

    frames = np.zeros((300, 270, 130, 3), dtype=np.uint8)
    frames[180:] = 255  # after 3 of 5 seconds: at 2.5 of the 4 in the middle
    clip = copy_small(str(make_video(tmp_path / "long.mp4", frames, fps=60)), tmp_path / "short")
    with av.open(str(clip)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert len(images) == 120 and images[0].shape == (240, 116, 3)
    assert [image.mean() > 128 for image in images] == [False] * 75 + [True] * 45


def test_old_clips_are_removed(copied: Path) -> None:
    (copied / "report").mkdir()
    for name in ("mistake_9.mp4", "notes.txt"):
        (copied / "report" / name).write_text("old")
    write_report(copied)
    names = {path.name for path in (copied / "report").iterdir()}
    assert "mistake_9.mp4" not in names and "notes.txt" in names


def test_moved_videos_leave_text(copied: Path) -> None:
    def move(row: dict[str, str]) -> None:
        row["path"] = "/moved/shard-000.tar/" + Path(row["path"]).name
        row["prediction1"] = row["prediction1"] and DOWN

    rewrite(copied, move)
    page = Page(write_report(copied))
    assert "No picture: no such file" in page.text and "video" not in page.tags
    assert any("CLIP.mp4" in command for command in page.commands)


def test_unlabelled_videos_have_no_accuracy(copied: Path) -> None:
    rewrite(copied, lambda row: row.update(label=""))
    page = Page(write_report(copied))
    assert "There is no accuracy: the videos have no labels." in page.text and "top-1" not in page.text
    assert "confusion_matrix.png" not in "".join(page.files)


def test_training_without_test_is_reported(copied: Path) -> None:
    for name in ("test_config.yaml", "metrics.json", "predictions.csv"):
        (copied / name).unlink()
    assert "There is no accuracy: nothing was tested." in Page(write_report(copied)).text


def test_test_alone_has_no_curves(run: Path, tmp_path: Path) -> None:
    weights = str(run / "checkpoints" / "last.pt")
    keys = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", weights, "OUTPUT_DIR", str(tmp_path / "tested")]
    assert call(["--cfg", str(run / "config.yaml"), *keys]) == 0
    page = Page(tmp_path / "tested" / "report.html")
    assert "which this run did not train" in page.text and "report/curves.svg" not in page.files


def test_accuracy_that_chose_the_weights_is_labelled(copied: Path) -> None:
    cfg = with_keys(load_cfg(copied / "test_config.yaml"), {"TEST.CHECKPOINT": str(copied / "checkpoints" / "best.pt")})
    save_cfg(cfg, copied / "test_config.yaml")
    assert "chosen on these clips" in Page(write_report(copied)).text
    save_cfg(with_keys(cfg, {"DATA.TEST": "other.csv"}), copied / "test_config.yaml")
    assert "chosen on these clips" not in Page(write_report(copied)).text


def test_data_json_is_shown(copied: Path) -> None:
    data = {
        "source": "/videos/my <i>set",
        "videos": 16,
        "classes": {DOWN: 8, RIGHT: 8},
        "train": 8,
        "val": 8,
        "groups": {"train": ["ann"], "val": ["<i>bob"]},
        "broken": [{"video": "cut.mp4", "reason": "ends <i>early"}],
        "warnings": ["file names suggest <i>groups"],
        "start": "the shipped network",
    }
    (copied / "data.json").write_text(json.dumps(data))
    page = Page(write_report(copied))
    for text in ("on videos/my <i>set", "8 to train on, 8 to test", "1 of 2 groups: <i>bob", "ends <i>early"):
        assert text in " ".join(page.text.split())
    assert "file names suggest <i>groups" in page.text and "the shipped network" in page.text
    assert page.tags.count("i") == 3  # of the scale


def test_many_classes_stay_readable(copied: Path) -> None:
    with (copied / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "prediction1", "score1", "error"])
        writer.writerows([f"{n}.mp4", f"class {n}", f"class {n // 2 * 2}", "0.5", ""] for n in range(400))
    page = Page(write_report(copied))
    assert "All 400 classes" in page.text and "details" in page.tags
    assert page.text.index("class 399") > page.text.index("class 1")


def test_image_runs_are_reported(copied: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (400, 500), "red").save(tmp_path / "red.png")
    rewrite(copied, lambda row: row.update(path=str(tmp_path / "red.png"), prediction1=row["prediction1"] and DOWN))
    page = Page(write_report(copied))
    shown = [copied / file for file in page.files if "mistake" in file]
    assert len(shown) == 4 and Image.open(shown[0]).size == (192, 240)


def test_curves_follow_resumed_runs(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": step, "loss": step, "lr": 0.1, "top1": 50.0} for step in (1, 2, 3, 2, 3, 4)]
    lines.insert(2, {"kind": "val", "step": 2, "top1": 10.0})
    lines.insert(5, {"kind": "val", "step": 2, "top1": 20.0})
    lines[-1]["loss"] = None
    text = "\n".join(map(json.dumps, [*lines, {"kind": "info", "message": "end"}])) + '\n{"kind": "tr'
    (tmp_path / "log.jsonl").write_text(text)
    curves = read_curves(tmp_path / "log.jsonl")
    assert curves.loss == [(1, 1), (2, 2), (3, 3)] and [step for step, _ in curves.train_top1] == [1, 2, 3, 4]
    assert curves.val_top1 == [(2, 20.0)]


@pytest.mark.parametrize("alpha", ["0", "0.25"])
def test_costs_have_a_twin(alpha: str) -> None:
    own, twin = measure_costs(load_cfg(None, [*TINY, "OCTAVE.ALPHA", alpha]))
    octave, vanilla = (own, twin) if own.alpha else (twin, own)
    assert (octave.name, octave.alpha, vanilla.name, vanilla.alpha) == ("oct_i3d", 0.25, "i3d", 0)
    assert octave.multiply_adds < vanilla.multiply_adds and octave.params == vanilla.params
    assert own.seconds and twin.seconds


def test_large_networks_are_not_timed() -> None:
    costs = measure_costs(load_cfg(None, ["DEVICE", "cpu", "MODEL.NUM_CLASSES", "2"]))
    assert [cost.seconds for cost in costs] == [None, None] and costs[0].multiply_adds > 20e9


def test_folder_without_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in this folder"):
        write_report(tmp_path)


def test_failed_report_is_a_warning(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tested"
    (out / "report.html").mkdir(parents=True)
    keys = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(run / "checkpoints" / "last.pt"), "OUTPUT_DIR", str(out)]
    assert call(["--cfg", str(run / "config.yaml"), *keys]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("warning: ") and "report.html" in last and "it is a folder" in last


def arguments_of(command: str) -> list[str]:
    """Return the arguments that a shell makes of a command."""
    printed = subprocess.run(["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    return printed.stdout.decode().split("\0")[1:-1]


def test_printed_commands_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From another folder; the page in the browser is never done, and OpenVINO's format takes long."""
    predict, app, export, again = map(arguments_of, Page(run / "report.html").commands)
    monkeypatch.chdir(tmp_path)
    assert run_command(main, [*predict, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["video"].startswith(str(run.parent))
    assert app == ["app", *predict[-2:]] and export[:3] == ["export", *predict[-2:]]
    network = ["--format", "torch-export", "--output", str(tmp_path / "network.pt2")]
    assert export[3:5] == ["--format", "openvino"] and run_command(main, [*export[:3], *network]) == 0
    assert run_command(main, [*again, "TRAIN.STEPS", "1"]) == 0
    assert (run.with_name(f"{run.name}-again") / "report.html").is_file()


def test_relative_paths_name_their_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    cfg = load_cfg(run / "config.yaml", ["DATA.TRAIN", "data/train"])
    command = next_commands(cfg, run, "last.pt", True, "")[-1][1]
    assert command.startswith(f"cd {shlex.quote(str(run.parent))} && ")
