"""Networks by name, with weights from a local server whose files have the layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytorchvideo.models import hub
from video_server import VideoServer

import octvideo
from octvideo.cli import run
from octvideo.cli.export import main as export
from octvideo.cli.predict import main as predict
from octvideo.cli.run_net import main as run_net
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.zoo import NETWORKS, model_cfg, published, warm_start, weights_file

ROOT = Path(__file__).resolve().parents[2]
FILE = "pytorchvideo/model_zoo/kinetics/X3D_XS.pyth"
HUB = {
    "c2d_r50": "c2d_r50",
    "i3d_r50": "i3d_r50",
    "slow_r50": "slow_r50",
    "slow_4x16_r50": "slow_r50",
    "slowfast_8x8_r50": "slowfast_r50",
    "slowfast_8x8_r101": "slowfast_r101",
    "slowfast_16x8_r101_50_50": "slowfast_16x8_r101_50_50",
    "csn_r101": "csn_r101",
    "r2plus1d_r50": "r2plus1d_r50",
    **{name: name for name in ("x3d_xs", "x3d_s", "x3d_m", "x3d_l")},
}
# Frames, temporal stride, training and test crop of PyTorchVideo's model zoo.
CLIPS = {
    "x3d_xs": (4, 12, 160, 182),
    "x3d_s": (13, 6, 160, 182),
    "x3d_m": (16, 5, 224, 256),
    "x3d_l": (16, 5, 312, 356),
    "slow_r50": (8, 8, 224, 256),
    "slow_4x16_r50": (4, 16, 224, 256),
    "slowfast_8x8_r101": (32, 2, 224, 256),
    "slowfast_16x8_r101_50_50": (64, 2, 224, 256),
    "csn_r101": (32, 2, 224, 256),
    "r2plus1d_r50": (16, 4, 224, 256),
}


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def hub_network() -> torch.nn.Module:
    """PyTorchVideo's X3D-XS, whose scores differ from clip to clip."""
    torch.manual_seed(0)
    network = hub.x3d_xs(head_activation=None)
    with torch.no_grad():
        network.blocks[-1].proj.weight.mul_(300)
    return network.eval()


@pytest.fixture
def server(hub_network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VideoServer]:
    """A mirror that has X3D-XS; torch's cache is an empty folder."""
    torch.save({"model_state": hub_network.state_dict()}, tmp_path / "file.pyth")
    server = VideoServer()
    server.files[FILE] = (tmp_path / "file.pyth").read_bytes()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OCTVIDEO_WEIGHTS_URL", server.url)
    yield server
    server.stop()


def _networks() -> Iterator[object]:
    for name in octvideo.list_models():
        traced = name.startswith(("oct_x3d", "oct_csn", "oct_r2plus1d"))  # takes seconds; test_hub_networks.py has one
        yield pytest.param(name, marks=pytest.mark.full if traced else ())


@pytest.mark.parametrize("name", list(_networks()))
def test_every_network_has_the_hubs_keys(name: str) -> None:
    vanilla = name.removeprefix("oct_")
    with torch.device("meta"):
        model = octvideo.create_model(name)
        expected = getattr(hub, HUB[vanilla])() if vanilla in HUB else octvideo.create_model(vanilla)
    assert shapes(model) == shapes(expected)
    assert any(getattr(layer, "alpha_in", 0) > 0 for layer in model.modules()) == (name != vanilla)


def test_every_hub_network_has_a_name() -> None:
    others = ("detection", "efficient", "mvit")  # for boxes, for phones, and transformers
    names = {name for name in dir(hub) if callable(getattr(hub, name)) and not any(word in name for word in others)}
    assert names == set(HUB.values())
    assert octvideo.list_models() == sorted([*NETWORKS, *(f"oct_{name}" for name in NETWORKS)])
    with_weights = [name for name in octvideo.list_models() if "k400" in published(name)]
    assert len(with_weights) == 2 * (len(NETWORKS) - 1)  # all but the small ones


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_pytorchvideos(name: str) -> None:
    data = model_cfg(name).DATA
    assert (data.NUM_FRAMES, data.SAMPLING_RATE, data.TRAIN_CROP, data.TEST_CROP) == CLIPS[name]
    assert (data.MEAN, data.STD) == ([0.45] * 3, [0.225] * 3)


def test_alpha_selects_the_twin() -> None:
    assert model_cfg("i3d_r50", 0.125) == model_cfg("oct_i3d_r50", 0.125)
    assert model_cfg("i3d_r50", 0.1) == model_cfg("oct_i3d_r50")
    assert model_cfg("oct_i3d_r50", 0.0) == model_cfg("i3d_r50")


def test_pretrained_network_is_the_hubs(hub_network: torch.nn.Module, server: VideoServer) -> None:
    for _ in range(2):
        model = octvideo.create_model("x3d_xs", pretrained="k400")
    assert server.asked(FILE) == [None]  # once
    assert len(model.classes) == 400 and model.classes[0] == "abseiling" and model.training
    clip = torch.randn(1, 3, 4, 160, 160)
    with torch.inference_mode():
        assert torch.equal(model.eval()(clip), hub_network(clip))


def test_other_number_of_classes_gets_a_new_head(hub_network: torch.nn.Module, server: VideoServer) -> None:
    model = octvideo.create_model("x3d_xs", pretrained=True, num_classes=7)
    assert model.blocks[-1].proj.weight.shape == (7, 2048) and model.classes == ()
    assert torch.equal(model.blocks[0].conv.conv_t.weight, hub_network.blocks[0].conv.conv_t.weight)


def test_weights_of_another_alpha_warn() -> None:
    with pytest.warns(UserWarning, match="was trained at alpha 0.5; at alpha 0.25 it is a warm start"):
        octvideo.create_model("oct_i3d_small", alpha=0.25, pretrained=True)
    assert warm_start("oct_x3d_s", 0.25).startswith("oct_x3d_s: X3D_S.pyth was trained at alpha 0;")
    assert warm_start("x3d_s", 0.0) == warm_start("oct_i3d_small", 0.5) == ""


def test_first_download_is_pinned(server: VideoServer) -> None:
    path = weights_file("x3d_xs", "k400")
    record = path.with_name("X3D_XS.pyth.sha256")
    assert record.read_text().endswith("  X3D_XS.pyth\n")
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(UserError, match="not the file of the first download.*remove it to download it again"):
        weights_file("x3d_xs", "k400")
    path.unlink()
    server.files[FILE] += b"?"  # another file on the server
    with pytest.raises(UserError, match="and X3D_XS.pyth.sha256 too if the new file is the right one"):
        weights_file("x3d_xs", "k400")
    path.unlink()
    record.unlink()
    assert weights_file("x3d_xs").read_bytes() == server.files[FILE]


def test_known_hash_is_checked(server: VideoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    known = published("x3d_xs")["k400"]._replace(sha256="0" * 64)
    monkeypatch.setattr("octvideo.models.zoo.WEIGHTS", (known,))
    with pytest.raises(UserError, match="not the published file"):
        weights_file("x3d_xs")


def test_offline_error_says_where_to_put_the_file(
    server: VideoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    monkeypatch.setenv("OCTVIDEO_WEIGHTS_URL", "http://127.0.0.1:9")
    clip = str(data / "clips/actions/mmaction2_part_0.mp4")
    assert run(predict, [clip, "--model", "x3d_xs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Connection refused" in line and line.endswith(", or pass --checkpoint FILE")
    place = Path(line.partition("put the file at ")[2].partition(",")[0])
    place.write_bytes(server.files[FILE])
    assert run(predict, [clip, "--model", "x3d_xs", "--views", "1"]) == 0


def test_predict_names_actions_of_kinetics(
    server: VideoServer, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(data / "clips/actions/mmaction2_part_0.mp4")
    assert run(predict, [clip, "--model", "x3d_xs", "--json", "--top-k", "400", "--views", "1"]) == 0
    named = json.loads(capsys.readouterr().out)
    labels = {entry["label"] for entry in named["predictions"]}
    assert len(labels) == 400 and {"abseiling", "playing cards", "zumba"} <= labels
    # Weights of a file, in the network of a name.
    words = [clip, "--model", "x3d_xs", "--checkpoint", str(tmp_path / "file.pyth"), "--views", "1", "--top-k", "400"]
    assert run(predict, [*words, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert (named.pop("model"), own.pop("model")) == ("x3d_xs", "file")
    assert own == named and server.asked(FILE) == [None]


@pytest.mark.parametrize("command", [predict, export, run_net])
def test_unknown_name_gets_the_nearest(command: object, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(command, ["--model", "x3d-s-k400", "--output", str(tmp_path / "out")]) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err == 'error: unknown model "x3d-s-k400"; did you mean x3d_s, x3d_xs, x3d_m?\n'
    with pytest.raises(UserError, match='unknown model "resnet"; the names are i3d_small, x3d_xs, .*, and oct_ twins'):
        octvideo.create_model("resnet")
    with pytest.raises(UserError, match='x3d_s: no published weights "in1k"; there are k400'):
        octvideo.create_model("x3d_s", pretrained="in1k")


def test_model_and_configuration_exclude_each_other(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    clip = str(data / "clips/actions/mmaction2_part_0.mp4")
    assert run(predict, [clip, "--model", "x3d_xs", "--cfg", "i3d_k400.yaml"]) == 2
    assert "pass either --model or --cfg" in capsys.readouterr().err


def test_shipped_network_has_a_name() -> None:
    model = octvideo.create_model("oct_i3d_small", pretrained="weizmann")
    assert len(model.classes) == 11 and {"wave1", "other"} < set(model.classes)
    names = {name: published(f"{name}_small")["weizmann"].name for name in ("oct_i3d", "i3d")}
    assert names == {"oct_i3d": "oct_i3d_weizmann.pt", "i3d": "i3d_weizmann.pt"}
    assert all(published(name) for name in octvideo.list_models())


def test_shipped_network_knows_its_actions_only(data: Path) -> None:
    clip = data / "weizmann/bend/lena_bend.avi"
    assert model_cfg("oct_i3d_small").OCTAVE == load_network().cfg.OCTAVE
    predictor = octvideo.Predictor(device="cpu")
    found = predictor.predict(clip)
    assert (len(predictor.classes), found[0].label, predictor.is_sure(found)) == (10, "bend", True)
    assert predictor.is_sure(predictor.predict(data / "clips/actions/mmaction2_demo.mp4")) is False


def test_torch_hub_loads_by_name() -> None:
    model = torch.hub.load(str(ROOT), "oct_i3d_small", source="local", pretrained=True, num_classes=3)
    assert model.eval()(torch.zeros(1, 3, 8, 96, 96)).shape == (1, 3)


@pytest.mark.full
@pytest.mark.parametrize("name", ["x3d_xs", "oct_x3d_xs"])
def test_run_by_name_trains_resumes_and_exports(
    name: str, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "DATA.TRAIN_CROP 48 DATA.TRAIN_SHORT_SIDE [48,56] DATA.TEST_CROP 48 DATA.TEST_SHORT_SIDE 48"
    keys = (
        f"{sizes} DATA.SAMPLING_RATE 4 DATA.CLASSES '' MODEL.NUM_CLASSES 2 MODEL.DROPOUT 0 DATA.FLIP 0 TEST.NUM_CLIPS 1"
    )
    keys += f" DATA.TRAIN {video_folder}/train DATA.VAL {video_folder}/val OUTPUT_DIR {tmp_path}/out NUM_WORKERS 0"
    keys += (
        " TRAIN.BATCH_SIZE 8 TRAIN.PRECISION fp32 TRAIN.LOG_EVERY 1 TRAIN.CHECKPOINT_EVERY 100 SOLVER.WARMUP_STEPS 0"
    )
    keys += " SOLVER.OPTIMIZER adamw SOLVER.BASE_LR 0.01 TRAIN.EVAL_EVERY 0"
    words = ["--model", name, *keys.replace("''", "").split(" ")]
    torch.set_num_threads(1)
    for steps in ("6", "12"):
        assert run(run_net, [*words, "TRAIN.STEPS", steps]) == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    assert sorted(losses) == list(range(1, 13)) and losses[12] < 0.7 * losses[1]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_videos"] == 8
    weights = ["--checkpoint", str(tmp_path / "out" / "checkpoints" / "last.pt")]
    assert run(predict, [str(video_folder / "val" / "down" / "video 0.mp4"), *weights, "--json"]) == 0
    pytest.importorskip("openvino")
    assert run(export, [*weights, "--format", "openvino", "--output", str(tmp_path / "net.xml")]) == 0


def test_twins_start_from_the_same_weights() -> None:
    models = []
    for name in ("i3d_small", "oct_i3d_small"):
        torch.manual_seed(0)
        models.append(build_model(model_cfg(name)).state_dict())
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())
