"""The frequency analysis of real networks on real clips, its files and its errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import small_cfg

from octvideo.analysis.frequency import find_inputs, layers_of, measure, network_of
from octvideo.analysis.frequency_report import as_numbers
from octvideo.cli import run
from octvideo.cli.analyze_frequency import main
from octvideo.config import load_cfg, save_cfg
from octvideo.models import build_model
from octvideo.octave import OctaveTensor


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images of noise, one upright."""
    rng = np.random.default_rng(0)
    for name, size in (("a.JPEG", (90, 120)), ("below/b.png", (100, 70))):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def test_low_maps_have_low_frequencies(data: Path) -> None:
    clips = [data / "weizmann" / action / f"ido_{action}.avi" for action in ("bend", "run", "wave2")]
    network = network_of(None, None)
    spectra, failed = measure(network, layers_of(network.model), find_inputs(clips))
    assert failed == []
    rows = {(row["layer"], row["group"]): row for row in as_numbers(spectra, bins=16)}
    pairs = [(f"res{stage}", group) for stage in (2, 3, 4) for group in ("high", "low")]
    assert list(rows) == [*pairs, ("res5", "plain")]
    assert rows["res2", "high"]["size"] == [24, 24] and rows["res2", "low"]["size"] == [12, 12]
    # 8 frames, and alpha 0.5 of 64 channels.
    assert rows["res2", "high"]["maps"] == rows["res2", "low"]["maps"] == 3 * 8 * 32
    for stage in ("res2", "res3", "res4"):
        high, low = rows[stage, "high"], rows[stage, "low"]
        assert 0 < low["mean_frequency"] < high["mean_frequency"]
        assert low["above_half"] == 0 < high["above_half"]
        assert low["frequency"][-1] <= 0.5 < high["frequency"][-1]
        # Not only because a low map has nothing above 0.5: of what is below that, more is below 0.25.
        (low_quarter, low_half), (high_quarter, high_half) = (
            [
                row["cumulative"][row["frequency"].index(edge)]
                for edge in (0.25, max(f for f in row["frequency"] if f <= 0.5))
            ]
            for row in (low, high)
        )
        assert low_quarter / low_half > high_quarter / high_half
    for row in rows.values():
        assert row["cumulative"] == sorted(row["cumulative"]) and row["cumulative"][-1] == pytest.approx(1)


def test_spectra_match_the_layers_outputs(data: Path, tmp_path: Path) -> None:
    # 72 pixels: maps of res3 are 9x9 and 5x5.
    save_cfg(small_cfg("DATA.TEST_CROP", "72", "DATA.TEST_SHORT_SIDE", "72"), tmp_path / "cfg.yaml")
    network = network_of(None, tmp_path / "cfg.yaml")
    layers = layers_of(network.model, ["res3"])
    outputs: list[OctaveTensor] = []
    handle = layers["res3"].register_forward_hook(lambda _, __, output: outputs.append(output))
    inputs = find_inputs([data / "weizmann" / "run" / "ido_run.avi"])
    spectra, _ = measure(network, layers, inputs, views=6)
    handle.remove()
    assert len(outputs) == 2  # of at most 4 clips each
    for found, group, size in zip(spectra, ("high", "low"), (9, 5)):
        maps = torch.cat([getattr(output, group) for output in outputs]).flatten(0, 2).double().numpy()
        maps = maps[maps.any((1, 2))]
        assert found.group == group and maps.shape[1:] == (size, size)
        assert found.energy.maps - found.energy.silent == len(maps)
        shares = np.abs(np.fft.fft2(maps)) ** 2
        shares /= shares.sum((1, 2), keepdims=True)
        assert np.allclose(found.energy.mean.numpy(), shares.mean(0), atol=1e-6)


def test_layers_are_found_by_name() -> None:
    model = build_model(small_cfg())
    assert list(layers_of(model)) == ["res2", "res3", "res4", "res5"]
    assert list(layers_of(model, ["res[34]", r"blocks\.0"])) == ["res3", "res4", "blocks.0"]
    fast = "MODEL.ARCH slowfast DATA.NUM_FRAMES 8".split()
    names = list(layers_of(build_model(small_cfg(*fast))))
    assert names == [f"{pathway}.res{stage}" for stage in (2, 3, 4, 5) for pathway in ("slow", "fast")]
    with torch.device("meta"):
        for arch, first in (
            ("resnet50", "layer1"),
            ("densenet121", "features.denseblock1"),
            ("mobilenet_v2", "features.0"),
        ):
            image = build_model(load_cfg("imagenet/oct_resnet50_in1k.yaml", ["MODEL.ARCH", arch]))
            assert next(iter(layers_of(image))) == first


def test_baseline_is_measured_too(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, alpha in (("octave", "0.5"), ("vanilla", "0")):
        sizes = "DATA.TEST_CROP 64 DATA.TEST_SHORT_SIDE 72 MODEL.NUM_CLASSES 3 OCTAVE.ALPHA".split()
        save_cfg(load_cfg("resnet50_in1k.yaml", [*sizes, alpha]), tmp_path / f"{name}.yaml")
    arguments = ["--cfg", str(tmp_path / "octave.yaml"), "--baseline-cfg", str(tmp_path / "vanilla.yaml")]
    output = tmp_path / "new" / "output"
    arguments += ["--data", str(pictures), "--layers", "layer[23]", "--output", str(output), "--device", "cpu"]
    assert run(main, [*arguments, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == 2 and found["failed"] == []
    groups = [(row["layer"], row["group"]) for row in found["groups"]]
    assert groups == [(f"layer{n}", g) for n in (2, 3) for g in ("high", "low")] + [
        ("layer2", "baseline"),
        ("layer3", "baseline"),
    ]
    assert [row["maps"] for row in found["groups"]] == [512, 512, 1024, 1024, 1024, 2048]
    with open(found["csv"], newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["layer", "group", "frequency", "energy", "cumulative", "maps"]
    assert len(lines) == sum(len(row["frequency"]) for row in found["groups"])
    assert float(lines[0]["energy"]) == pytest.approx(found["groups"][0]["energy"][0], rel=1e-4)
    with Image.open(found["picture"]) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 400
    assert sorted(path.name for path in output.iterdir()) == ["frequency.csv", "frequency.png"]


def test_text_table_has_all_groups(
    pictures: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--data", str(pictures / "a.JPEG"), "--layers", "res3"]
    assert run(main, [*arguments, "--output", str(tmp_path), "--bins", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line[:1] == ["res3"]] == [["res3", "high", "8x8"], ["res3", "low", "4x4"]]
    with (tmp_path / "frequency.csv").open(newline="") as file:
        found = [(row["group"], row["frequency"]) for row in csv.DictReader(file)]
    high = [("high", edge) for edge in ("0", "0.25", "0.5", "0.75", "1")]
    assert found == [*high, *(("low", edge) for edge in ("0", "0.25", "0.5"))]


def test_unreadable_file_is_named(
    pictures: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = pictures / "broken.mp4"
    broken.write_bytes(np.random.default_rng(0).bytes(1000))
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--json", "--data"]
    assert run(main, [*arguments, str(pictures)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and str(broken) in captured.err
    found = json.loads(captured.out)
    assert found["files"] == 2 and [failure["path"] for failure in found["failed"]] == [str(broken)]
    assert run(main, [*arguments, str(broken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_lists_are_read(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("pictures/a.JPEG 1\npictures/below/b.png 0\n")
    inputs = find_inputs([tmp_path / "list.csv", pictures / "a.JPEG"])
    assert [Path(inputs.path(number)).name for number in range(len(inputs))] == ["a.JPEG", "b.png", "a.JPEG"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "/nonexistent.mp4"], "/nonexistent.mp4"),
        (["--layers", "res9"], "res2, res3, res4, res5"),
        (["--layers", "res("], "regular expression"),
        (["--layers", "res2", r"blocks\.9"], r"blocks\.9: no layer"),
        (["--layers", r"blocks\.6"], "no feature maps"),
        (["--layers", r"blocks\.6\.proj"], "no feature maps"),
        (["--baseline-cfg", "quickstart/oct_i3d.yaml"], "a vanilla one"),
        (["--baseline-cfg", "weizmann/i3d.yaml"], "DATA.TEST_CROP"),
        (["--cfg", "nonexistent.yaml"], "nonexistent.yaml"),
        (["--output", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    expected: str,
    pictures: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--data": str(pictures), "--output": str(tmp_path), "--checkpoint": str(checkpoint)}
    rest = [word for pair in given.items() if pair[0] not in arguments for word in pair]
    assert run(main, [*rest, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error


@pytest.mark.parametrize("arguments", [[], ["--data", "x"], ["--data", "x", "--output", "y", "--bins", "0"]])
def test_wrong_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage:" in capsys.readouterr().err
