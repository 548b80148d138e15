"""The pictures of clips, feature maps and runs: what is in them, their files and their errors."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import call
from small_network import small_cfg

from octvideo.analysis.frequency import stages_of
from octvideo.analysis.pictures.clip import clip_sheet
from octvideo.analysis.pictures.compare import Result, draw_comparison, read_results
from octvideo.analysis.pictures.curves import draw_curves, read_runs
from octvideo.analysis.pictures.maps import choose_layer, find_layers, layer_strips
from octvideo.analysis.pictures.mistakes import mistake_strips
from octvideo.analysis.pictures.sheet import Cell, Strip, draw_sheet
from octvideo.analysis.report_run import Run
from octvideo.cli import run as run_command
from octvideo.cli.main import main
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.inference.overlay import VideoWriter
from octvideo.models import build_model
from octvideo.octave.complexity import count

LONG = "打篮球 <b>$x_1$ " + 4 * "a very long name of a class "
TINY = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 OCTAVE.ALPHA 0.25 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 "
    "DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40 TRAIN.STEPS 4 TRAIN.BATCH_SIZE 4 "
    "TRAIN.LOG_EVERY 1 TRAIN.EVAL_EVERY 2 TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 NUM_WORKERS 0 NUM_THREADS 1 DEVICE cpu"
).split()


@pytest.fixture(scope="module")
def run(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("pictures") / "run"
    config = folder.parent / "tiny.yaml"
    config.write_text("MODEL: {ARCH: i3d}\n", encoding="utf-8")
    data = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val")]
    assert call(["--cfg", str(config), *data, *TINY, "OUTPUT_DIR", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run without its checkpoints."""
    return Path(shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "report*")))


@pytest.fixture(scope="module")
def counting(make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 50 frames at 10 per second. Frame n has the brightness 20 + 4 n."""
    shades = (20 + 4 * np.arange(50, dtype=np.uint8))[:, None, None, None]
    frames = np.broadcast_to(shades, (50, 96, 128, 3)).copy()
    return make_video(tmp_path_factory.mktemp("counting") / "counting.mp4", frames, fps=10)


def seconds(cell: Cell) -> float:
    """The time that is written below a frame."""
    return float(cell.caption.removesuffix(" s"))


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


def size(picture: bytes | Path) -> tuple[int, int]:
    """Width and height of a whole PNG."""
    with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong call ends in."""
    assert run_command(main, ["visualize", *map(str, arguments)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


@pytest.mark.parametrize("sampling", ["even", "pyslowfast"])
def test_sheet_has_the_sampled_frames(counting: Path, sampling: str) -> None:
    cfg = small_cfg("DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "5", "DATA.SAMPLING", sampling)
    title, strips = clip_sheet(counting, cfg, "counting.mp4")
    assert title == "counting.mp4: 50 frames of 96 x 128, 10.00 per second, 5.00 s"
    clips = [strip for strip in strips if "crops" not in strip.heading]
    assert [strip.heading.split(":")[0] for strip in clips] == [
        *(f"training, draw {draw}" for draw in (1, 2, 3, 4)),
        *(f"testing, clip {clip} of 3" for clip in (1, 2, 3)),
    ]
    for strip in clips:
        times = [seconds(cell) for cell in strip.cells]
        seen = [(cell.image.mean() - 20) / 40 for cell in strip.cells]
        assert seen == pytest.approx(times, abs=0.06), "each caption is the time of its frame"
        if sampling == "even":
            assert np.diff(times) == pytest.approx([0.5, 0.5, 0.5])
    assert len({clip.cells[0].caption for clip in clips[:4]}) > 1, "the draws differ"
    assert [clip.cells[0].caption for clip in clips[4:]] != [clips[4].cells[0].caption] * 3


def test_times_of_a_varying_rate(tmp_path: Path) -> None:
    times = np.cumsum(np.where(np.arange(50) < 25, 0.04, 0.2))  # the brightness is the time, as above
    path = tmp_path / "uneven.mp4"
    with VideoWriter(path, Fraction(10)) as writer:
        for time in times:
            writer.write(np.full((96, 128, 3), round(20 + 30 * (time - times[0])), np.uint8), time)
    cfg = small_cfg("DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "5")
    clips = [strip for strip in clip_sheet(path, cfg, "uneven.mp4")[1] if "crops" not in strip.heading]
    for cell in (cell for strip in clips for cell in strip.cells):
        assert (cell.image.mean() - 20) / 30 == pytest.approx(seconds(cell), abs=0.08)


def test_sheet_shows_augmentation(counting: Path) -> None:
    plain = clip_sheet(counting, small_cfg(), "a")[1][0].cells[0].image
    erased = clip_sheet(counting, small_cfg("DATA.RANDOM_ERASING", "1.0"), "a")[1][0].cells[0].image
    changed = (plain != erased).any(2)
    assert plain.std() < 3 and 0.01 < changed.mean() < 0.4, "a box of 2 to 33 % is noise"
    assert erased[changed].std() > 30


def test_crops_are_framed(make_video: Callable[..., Path], tmp_path: Path) -> None:
    frames = np.zeros((10, 60, 120, 3), dtype=np.uint8)
    frames[:, :, 80:] = 255
    path = make_video(tmp_path / "half.mp4", frames)
    cfg = small_cfg("TEST.NUM_CROPS", "3", "DATA.TEST_SHORT_SIDE", "60", "DATA.TEST_CROP", "60")
    [strip] = [strip for strip in clip_sheet(path, cfg, "a")[1] if "crops" in strip.heading]
    whole, *crops = strip.cells
    assert len(whole.boxes) == len(crops) == 3 and whole.image.shape == (60, 120, 3)
    for box, crop in zip(whole.boxes, crops):
        area = whole.image[box.top : box.top + box.height, box.left : box.left + box.width]
        assert np.abs(area.astype(int) - crop.image).max() < 10
    assert [round(crop.image.mean() / 255, 1) for crop in crops] == [0, 0.2, 0.7]


def test_sheet_is_as_wide_as_its_texts() -> None:
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    narrow = size(draw_sheet("a", [Strip("b", [Cell(image, "c")])]))
    wide = size(draw_sheet("a", [Strip(LONG, [Cell(image, "c")])]))
    captioned = size(draw_sheet("a", [Strip("b", [Cell(image, LONG)])]))
    assert wide[0] > narrow[0] + 500 and captioned[0] > narrow[0] + 400 and wide[1] == narrow[1]
    content = draw_sheet("a", [Strip(LONG, [])])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert (pixels < 128).any() and (pixels[:, -10:] == 255).all(), "no letter touches the border"


def test_low_maps_have_half_the_size(checkpoint: Path, video_folder: Path) -> None:
    network = load_network(checkpoint)
    views = torch.randint(0, 256, (1, 8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    layers = find_layers(network.model, torch.randn(1, 3, 8, 64, 64))
    name = choose_layer(layers, network.model, None)
    # An eighth of 64 pixels after the stem, its pooling, and no stride; alpha 0.25 of 64 channels.
    assert name == "res2" and layers[name] == "high 48x8x16x16, low 16x8x8x8"
    strips = layer_strips(network, name, views)
    assert [(strip.cells[0].scale, len(strip.cells)) for strip in strips] == [
        (1, 4),
        (1, 4),
        (0.5, 4),
        (1, 8),
        (0.5, 8),
    ]
    assert [strip.cells[0].image.shape[0] for strip in strips] == [64, 16, 8, 16, 8]


def test_mean_map_is_that_of_the_layer(checkpoint: Path) -> None:
    network = load_network(checkpoint)
    views = torch.zeros((1, 8, 64, 64, 3), dtype=torch.uint8)
    views[:, :, 8:24, 40:56] = 255
    maps: list[torch.Tensor] = []
    handle = stages_of(network.model)["res3"].register_forward_hook(lambda _, __, out: maps.append(out.low))
    strips = layer_strips(network, "res3", views)
    handle.remove()
    mean = maps[0][0, :, 0].mean(0)
    green = torch.from_numpy(strips[2].cells[0].image[..., 1].astype(int))  # viridis: grows with the value
    assert torch.equal(mean.flatten().argsort(), green.flatten().argsort(stable=True))


@pytest.mark.parametrize(("arch", "extra"), [("x3d_xs", "0.25"), ("x3d_xs", "0"), ("slowfast", "0.25")])
def test_every_family_has_layers(arch: str, extra: str) -> None:
    keys = f"MODEL.ARCH {arch} DATA.NUM_FRAMES 8 OCTAVE.ALPHA {extra} MODEL.BLOCKS [3,4,6,3] MODEL.WIDTH 64".split()
    model = build_model(small_cfg(*keys)).eval()
    layers = find_layers(model, torch.randn(1, 3, 8, 64, 64))
    name = choose_layer(layers, model, None)
    assert ("low" in layers[name]) == (extra != "0")


def test_curves_are_read_by_run(run: Path, copied: Path) -> None:
    runs = read_runs([run, copied])
    assert [*runs] == ["run", "copy"]
    assert [step for step, _ in runs["copy"].loss] == [1, 2, 3, 4] and len(runs["copy"].val_top1) == 2
    one, two = (draw_curves({name: runs["run"] for name in names}) for names in (["a"], ["a", LONG]))
    assert size(one)[0] == size(two)[0] >= 800 and one != two


def test_equal_names_become_paths(run: Path, copied: Path) -> None:
    other = Path(shutil.copytree(copied, copied / "run"))
    assert [*read_runs([run, other])] == [str(run), str(other)]


def test_comparison_has_cost_and_accuracy(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("model,alpha,gflops,top1\ni3d,0,0.02,50\ni3d,0,0.02,60\n", encoding="utf-8")
    mine, *others = read_results([run, table])
    cfg = Run(run).cfg
    cost = count(build_model(cfg), (1, 3, 4, 32, 32))
    top1 = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["top1"]
    assert mine == Result("i3d", 0.25, cost.multiply_adds / 1e9, top1)
    assert others == [Result("i3d", 0, 0.02, 50), Result("i3d", 0, 0.02, 60)]
    assert size(draw_comparison([mine, *others, Result(LONG, 1, 0.01, 10)]))[0] > 600


@pytest.mark.filterwarnings("error")
def test_comparison_shows_means_and_spread() -> None:
    import matplotlib.pyplot as plt

    drawn = draw_comparison([Result("a", 0, 2, 40), Result("a", 0, 2, 60), Result("a", 0.5, 1, 30)])
    assert size(drawn) and not plt.get_fignums(), "no figure is left open"
    assert drawn != draw_comparison([Result("a", 0, 2, 45), Result("a", 0, 2, 55), Result("a", 0.5, 1, 30)])


def test_mistakes_are_the_most_certain(copied: Path) -> None:
    scores = iter(np.linspace(0.5, 0.9, 8))

    def mistake(row: dict[str, str]) -> None:
        row["prediction1"] = LONG if row["label"] == "down" else row["label"]
        row["score1"] = f"{next(scores):.3f}"

    rewrite(copied, mistake)
    title, strips = mistake_strips(Run(copied))
    assert title == "copy: 4 of 8 answers are wrong"
    answers = [strip.heading.split("\n")[1] for strip in strips]
    percents = [int(answer.split()[-2]) for answer in answers]
    assert percents == sorted(percents, reverse=True) and len(percents) == 4
    assert all(answer.startswith("answer: 打篮球") and "..., " in answer for answer in answers)
    for strip in strips:  # 24 frames, 25 per second
        assert [seconds(cell) for cell in strip.cells] == [0, 0.2, 0.36, 0.56, 0.72, 0.92]
        rows = [cell.image.mean((1, 2)).argmax() for cell in strip.cells]
        assert rows == sorted(rows) and rows[-1] - rows[0] > 30, "the bar goes down"
    assert size(draw_sheet(title, strips))


def test_moved_videos_leave_their_text(copied: Path) -> None:
    rewrite(copied, lambda row: row.update(path="/moved/a.mp4", prediction1="other"))
    _, strips = mistake_strips(Run(copied))
    assert all("a.mp4: no picture (no such file)" in strip.heading and not strip.cells for strip in strips)
    assert size(draw_sheet("a", strips))


@pytest.mark.parametrize("arguments", [["cam", "--help"], ["cam"], ["clip", "a.mp4", "--cfg", "none.yaml"]])
def test_arguments_are_checked_before_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from octvideo.cli import run; from octvideo.cli.visualize import main\n"
        "try: sys.exit(run(main, sys.argv[1:]))\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 2) and "Traceback" not in done.stderr


def test_each_command_prints_its_file(
    run: Path, copied: Path, counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(copied, lambda row: row.update(prediction1="other"))
    weights = str(run / "checkpoints" / "last.pt")
    calls = {
        "counting_clip.png": ["clip", str(counting), "--cfg", str(run / "config.yaml"), "TEST.NUM_CLIPS", "2"],
        "counting_features.png": ["features", str(counting), "--checkpoint", weights],
        "curves.png": ["curves", str(run)],
        "compare.png": ["compare", str(run)],
        "copy_mistakes.png": ["mistakes", str(copied)],
        "new/a.png": ["features", str(counting), "--checkpoint", weights, "--layer", "res4", "--output", "new/a.png"],
    }
    for name, arguments in calls.items():
        assert run_command(main, ["visualize", *arguments]) == 0
        assert capsys.readouterr().out == f"{name}\n" and min(size(tmp_path / name)) > 200
    assert run_command(main, ["visualize", "features", str(counting), "--checkpoint", weights, "--list"]) == 0
    assert "res4" in capsys.readouterr().out


def test_wrong_input_is_one_line(
    run: Path, copied: Path, counting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert f"{broken}: cannot be decoded" in error_of(capsys, "clip", broken)
    assert "none.mp4: no such file" in error_of(capsys, "features", "none.mp4")
    assert "unknown key DATA.FRAMES" in error_of(capsys, "clip", counting, "DATA.FRAMES", "1")
    assert "give a name that ends in .png" in error_of(capsys, "clip", counting, "--output", tmp_path / "a.jpg")
    weights = run / "checkpoints" / "last.pt"
    for name, text in (("res6", 'no such layer; did you mean "res4"?'), ("res5", "no maps larger than 1x1")):
        text_of = error_of(capsys, "features", counting, "--checkpoint", weights, "--layer", name)
        assert text in text_of and "The network has res2, res3, res4;" in text_of
    assert "not a readable checkpoint" in error_of(capsys, "features", counting, "--checkpoint", broken)
    wrong = ["--checkpoint", weights, "--cfg", "slowfast_k400.yaml"]
    assert "has 2 classes, but" in error_of(capsys, "features", counting, *wrong)
    assert f"{tmp_path}: no log of a training" in error_of(capsys, "curves", run, tmp_path)
    for what in ("compare", "mistakes"):
        assert f"{tmp_path}: no run in this folder" in error_of(capsys, what, tmp_path)
    for name in ("metrics.json", "predictions.csv"):
        (copied / name).unlink()
    assert "no accuracy yet" in error_of(capsys, "compare", copied)
    assert "no test results yet" in error_of(capsys, "mistakes", copied)
    assert not list(tmp_path.glob("*.png"))


def test_runs_without_mistakes_say_so(copied: Path) -> None:
    rewrite(copied, lambda row: row.update(prediction1=row["label"]))
    with pytest.raises(UserError, match="all 8 answers are right"):
        mistake_strips(Run(copied))
    rewrite(copied, lambda row: row.update(label=""))
    with pytest.raises(UserError, match="have no labels"):
        mistake_strips(Run(copied))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,alpha,top1\n", "no column gflops"),
        ("model,alpha,gflops,top1\n", "the table has no rows"),
        ("model,alpha,gflops,top1\na,0,1,50\na,0,1,high\n", "csv:3: top1 is 'high'; give a number"),
        ("model,alpha,gflops,top1\na,0,1\n", "csv:2: top1 is None; give a number"),
    ],
)
def test_wrong_tables_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_results([tmp_path / "table.csv"])
