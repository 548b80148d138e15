"""The benchmarks report what docs say, and compare equal work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from octvideo.benchmarking import videos as videos_module
from octvideo.benchmarking.timing import Report, interleaved
from octvideo.benchmarking.videos import view_by_view
from octvideo.cli import run
from octvideo.cli.benchmark import main
from octvideo.config import load_cfg, save_cfg
from octvideo.data import dataset as dataset_module
from octvideo.data import read_index
from octvideo.data.dataset import TestDataset
from octvideo.data.decoders.decord import is_installed
from octvideo.models import build_model

SMALL = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 MODEL.NUM_CLASSES 2 DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 "
    "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40 TRAIN.BATCH_SIZE 2 "
    "TEST.NUM_CLIPS 4 TEST.NUM_CROPS 3 DEVICE cpu"
).split()


def measure(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """Runs the command and returns its JSON, after checks that hold for every benchmark."""
    capsys.readouterr()
    assert run(main, [*arguments, "--rounds", "2", "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    memory = ["memory"] if arguments[0] == "data" and Path("/proc/self/statm").is_file() else []
    assert list(found) == ["benchmark", "hardware", "rounds", "results", "ratio", *memory]
    assert found["benchmark"] == arguments[0] and found["rounds"] == 2
    assert found["hardware"]["cpu"] and found["hardware"]["cores"] and found["hardware"]["torch"] == torch.__version__
    results = {result["name"]: result for result in found["results"]}
    for name, value in found["ratio"].items():
        pair, by = name.removesuffix(")").split(" (") if name.endswith(")") else (name, "seconds")
        slow, fast = (results[one][by] for one in pair.split(" / "))
        assert slow > 0 and fast > 0 and value == pytest.approx(slow / fast)
    assert all(result["seconds"] > 0 for result in found["results"])
    return found


def test_forward_compares_with_vanilla(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure(capsys, "forward", *SMALL)
    results = {result["name"]: result for result in found["results"]}
    plain = {"octave conv3d", "octave as 2D", "vanilla conv3d", "vanilla as 2D"}
    assert set(results) == plain | {f"{name} folded" for name in plain}
    assert results["octave conv3d"]["gflops"] < results["vanilla conv3d"]["gflops"]
    assert results["octave conv3d"]["params_m"] == results["vanilla conv3d"]["params_m"]
    assert {"vanilla as 2D / octave as 2D", "octave as 2D / octave as 2D folded"} <= set(found["ratio"])


def test_forward_compares_alphas(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure(capsys, "forward", "--alpha", "0.25x4", "--alpha", "0.5", *SMALL)
    results = {result["name"]: result for result in found["results"]}
    quarter, half = results["octave 0.25 x4 as 2D"], results["octave 0.5 as 2D"]
    assert half["gflops"] < quarter["gflops"] < results["vanilla as 2D"]["gflops"]
    for octave in ("octave 0.25 x4", "octave 0.5"):
        assert f"vanilla as 2D folded / {octave} as 2D folded (processor_seconds)" in found["ratio"]


@pytest.mark.full
def test_forward_on_exported_runtimes() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    # In a separate process: both runtimes start threads, and later tests fork.
    command = [sys.executable, str(Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"), "forward"]
    command += ["--runtime", "onnx", "--runtime", "openvino", "--rounds", "2", "--json", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    results = {result["name"]: result for result in found["results"]}
    for runtime in ("onnx", "openvino"):
        assert found["ratio"][f"vanilla {runtime} / octave {runtime}"] > 0
        for kind in ("octave", "vanilla"):
            assert results[f"{kind} {runtime}"]["gflops"] == results[f"{kind} conv3d"]["gflops"]


def test_table_separates_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["forward", "--alpha", "0.5x4", "--rounds", "1", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["seconds", "processor_seconds", "clips_per_s", "gflops", "params_m"]
    assert all(len(line) == len(lines[3]) for line in lines[4 : lines.index("ratio of seconds") - 1])


def test_train_compares_with_a_bare_loop(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure(capsys, "train", *SMALL)
    pairs, names = ["octave / vanilla"], []
    for kind in ("octave", "vanilla"):
        bare, again = f"{kind} bare loop", f"{kind} bare loop again"
        pairs += [f"{kind} / {bare}", f"{again} / {bare}"]
        names += [kind, bare, again]
    assert list(found["ratio"]) == [name for pair in pairs for name in (pair, f"{pair} (processor_seconds)")]
    assert [result["name"] for result in found["results"]] == names
    assert all(result["clips_per_s"] == pytest.approx(2 / result["seconds"]) for result in found["results"])
    assert all(0 <= result["data_wait"] <= 1 for result in found["results"])
    if Path("/proc/self/clear_refs").is_file():
        assert all(result["peak_memory_mb"] > 0 for result in found["results"])


def test_train_reads_videos(capsys: pytest.CaptureFixture[str], video_folder: Path) -> None:
    found = measure(capsys, "train", "--data", str(video_folder / "train"), *SMALL, "NUM_WORKERS", "1")
    loaded = {result["name"]: result for result in found["results"][6:]}
    assert list(loaded) == ["octave from videos", "vanilla from videos"]
    assert all(0 < result["data_wait"] <= 1 for result in loaded.values())


def test_data_compares_workers(capsys: pytest.CaptureFixture[str], video_folder: Path) -> None:
    found = measure(capsys, "data", "--data", str(video_folder / "train"), *SMALL)
    assert [result["name"] for result in found["results"]] == [
        "bare decode and resize",
        "loader, 1 worker",
        "loader, 2 workers",
    ]
    assert all(result["clips_per_s"] == pytest.approx(1 / result["seconds"]) for result in found["results"])
    assert "loader, 1 worker / loader, 2 workers" in found["ratio"]
    if "memory" in found:
        before, after, growth = found["memory"].values()
        assert list(found["memory"]) == ["after 200 openings", "after 400 openings", "growth"]
        assert before > 50 and growth == pytest.approx(after - before)


def test_views_compares_openings(capsys: pytest.CaptureFixture[str], video_folder: Path) -> None:
    found = measure(capsys, "views", "--data", str(video_folder / "val"), *SMALL)
    assert all(result["views"] == 12 for result in found["results"])
    assert "one per view / one opening" in found["ratio"]
    assert ("frames as asked / frames sorted, once each" in found["ratio"]) == is_installed()


@pytest.mark.parametrize("sampling", ["even", "pytorchvideo"])
def test_view_by_view_gives_equal_frames(video_folder: Path, monkeypatch: pytest.MonkeyPatch, sampling: str) -> None:
    openings: list[str] = []

    def counted(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: openings.append(name) or really(*args, **more)

    for module in (dataset_module, videos_module):
        monkeypatch.setattr(module, "open_video", counted(module.__name__, module.open_video))
    index = read_index(str(video_folder / "val"))
    sizes = dict(num_frames=4, sampling_rate=2, crop=32, short_side=40, num_clips=4, num_crops=3)
    options = dict(**sizes, decoder="auto", sampling=sampling)
    expected = TestDataset(index, **options)[0].frames  # type: ignore[arg-type]
    assert torch.equal(view_by_view(index.path(0), **options), expected)  # type: ignore[arg-type]
    assert openings == [dataset_module.__name__] + [videos_module.__name__] * 12


def test_end_to_end_times_predictions(capsys: pytest.CaptureFixture[str], video_folder: Path, tmp_path: Path) -> None:
    cfg = load_cfg("quickstart/oct_i3d.yaml", SMALL)
    save_cfg(cfg, tmp_path / "cfg.yaml")
    torch.save(build_model(cfg).state_dict(), tmp_path / "weights.pt")
    weights = ["--cfg", str(tmp_path / "cfg.yaml"), "--checkpoint", str(tmp_path / "weights.pt")]
    video = next((video_folder / "val").rglob("*.mp4"))
    found = measure(capsys, "end-to-end", "--data", str(video), *weights)
    assert [result["name"] for result in found["results"]] == ["load", "first prediction", "next predictions"]
    found = measure(capsys, "end-to-end", "--data", str(video), "--model", "oct_i3d_small")
    assert len(found["results"]) == 3


def test_text_table_has_all_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["train", "--rounds", "1", *SMALL]) == 0
    text = capsys.readouterr().out
    assert "N = 1" in text and "octave / vanilla" in text and "clips_per_s" in text


def test_rounds_alternate_the_variants() -> None:
    calls: list[str] = []
    seconds = {"a": iter([1.0, 9.0, 2.0]), "b": iter([4.0, 4.0, 4.0])}

    def variant(name: str) -> float:
        calls.append(name)
        return next(seconds[name])

    report = Report()
    found = interleaved({"a": lambda: variant("a"), "b": lambda: variant("b")}, 3)
    assert calls == list("abbaab") and found == {"a": 2.0, "b": 4.0}
    report.results = [{"name": name, "seconds": value} for name, value in found.items()]
    report.compare("b", "a")
    assert report.ratio == {"b / a": 2.0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data"], "--data"),
        (["forward", "--data", "x"], "--data"),
        (["forward", "OCTAVE.ALPHA", "0"], "OCTAVE.ALPHA"),
        (["train", "--checkpoint", "x.pt"], "--checkpoint"),
        (["train", "--runtime", "onnx"], "--runtime"),
        (["train", "--alpha", "0.5"], "--alpha"),
        (["forward", "--alpha", "0"], "OCTAVE.ALPHA"),
        (["views", "--data", "/nonexistent"], "/nonexistent"),
        (["end-to-end", "--data", "x.mp4", "TEST.NUM_CLIPS", "2"], "--cfg"),
    ],
)
def test_errors_are_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error


def test_unreadable_video_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "class" / "broken.mp4"
    broken.parent.mkdir()
    broken.write_bytes(np.random.default_rng(0).bytes(1000))
    for name in ("data", "views"):
        assert run(main, [name, "--data", str(tmp_path), "--rounds", "1", *SMALL]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "broken.mp4" in error


@pytest.mark.full
def test_cpu_table_is_measured_and_drawn(tmp_path: Path) -> None:
    group = "small I3D, width 16"
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    _script("cpu.py", "--rounds", "2", "--only", group, *files)
    rows = json.loads((tmp_path / "a.json").read_text())["networks"][group]
    assert set(rows) == {
        f"{alpha}, {runtime} f32" for alpha in ("0", "0.25", "0.5x16") for runtime in ("openvino", "torch")
    }
    row, vanilla = rows["0.5x16, openvino f32"], rows["0, openvino f32"]
    assert row["speedup"] == pytest.approx(vanilla["ms"] / row["ms"])
    assert row["share"] == pytest.approx(row["speedup"] / (vanilla["gflops"] / row["gflops"]))
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.full
def test_gpu_script_runs_where_there_is_none(tmp_path: Path) -> None:
    small = ["MODEL.BLOCKS", "[1,1,1,1]", "MODEL.WIDTH", "8", "DATA.TRAIN_CROP", "32"]
    options = ["--device", "cpu", "--no-compile", "--rounds", "1", "--clips", "1", "--json", str(tmp_path / "a.json")]
    _script("gpu.py", *options, *small)
    found = json.loads((tmp_path / "a.json").read_text())
    assert max(found["differences"].values()) < 1e-4 and len(found["differences"]) == 4
    assert {len(rows) for kinds in found["networks"].values() for rows in kinds.values()} == {8}


def _script(name: str, *arguments: str) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, str(root / "benchmarks" / name), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
