"""``tools/convert.py``: other libraries and octvideo read the files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peer_names
import pytest
import torch
from pytorchvideo.models import hub
from safetensors.torch import load_file

from octvideo.cli.convert import main
from octvideo.config import CfgNode, load_cfg, save_cfg
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import read_checkpoint
from octvideo.octave import Plan

SMALL = "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 MODEL.NUM_CLASSES 3 DATA.TRAIN_CROP 64 DATA.TEST_CROP 64"
CLASSES = ["bend", "jump", "wave"]


def saved(folder: Path, text: str, classes: list[str] = CLASSES) -> tuple[CfgNode, Path]:
    cfg = load_cfg(None, text.split())
    torch.manual_seed(0)
    state = build_model(cfg).state_dict()
    torch.save({"model": state, "config": cfg.dump(), "classes": classes, "version": 1}, folder / "net.pt")
    return cfg, folder / "net.pt"


@pytest.mark.parametrize("arch", ["c2d", "i3d", "slow", "slowfast"])
def test_pytorchvideo_loads_the_converted_file(tmp_path: Path, arch: str) -> None:
    frames = 32 if arch == "slowfast" else 8
    _, file = saved(tmp_path, f"MODEL.ARCH {arch} MODEL.NUM_CLASSES 3 DATA.NUM_FRAMES {frames}")
    main(["--checkpoint", str(file), "--format", "pytorchvideo", "--output", str(tmp_path / "out.pyth")])
    state = torch.load(tmp_path / "out.pyth", weights_only=True)["model_state"]
    reference = getattr(hub, f"{arch}_r50")(model_num_class=3)
    assert list(state) == list(reference.state_dict())
    reference.load_state_dict(state, strict=True)
    if arch == "i3d":
        clips = torch.randn(1, 3, 8, 224, 224)
        with torch.inference_mode():
            assert torch.equal(reference.eval()(clips), load_network(file).model(clips))


def test_octave_network_is_refused_for_pytorchvideo(tmp_path: Path) -> None:
    _, file = saved(tmp_path, f"{SMALL} OCTAVE.ALPHA 0.25")
    with pytest.raises(UserError, match=r"net\.pt: OCTAVE\.ALPHA is 0\.25"):
        main(["--checkpoint", str(file), "--format", "pytorchvideo", "--output", str(tmp_path / "out.pyth")])
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_safetensors_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg, file = saved(tmp_path, f"{SMALL} OCTAVE.ALPHA 0.25")
    out = tmp_path / "folder" / "net.safetensors"
    assert main(["--checkpoint", str(file), "--format", "safetensors", "--output", str(out)]) == 0
    assert "net.safetensors: safetensors" in capsys.readouterr().out
    state = torch.load(file, weights_only=True)["model"]
    assert {key: value.tolist() for key, value in load_file(out).items()} == {k: v.tolist() for k, v in state.items()}
    network = load_network(out)  # its configuration and classes are in it
    assert network.classes == tuple(CLASSES) and network.cfg.OCTAVE.ALPHA == 0.25
    assert Plan.from_dict(read_checkpoint(out)["plan"]) == network.model.octave_plan
    clips = torch.randn(1, 3, 8, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.model(clips), load_network(file).model(clips))


@pytest.mark.parametrize("target", ["safetensors", "octvideo"])
def test_threshold_and_seen_videos_are_kept(tmp_path: Path, target: str) -> None:
    _, file = saved(tmp_path, SMALL)
    seen = {"videos": ["00f06e07020345c9"], "lists": []}
    torch.save({**torch.load(file), "confidence": {"threshold": 0.25, "known": 16}, "seen": seen}, file)
    out = tmp_path / f"out.{'pt' if target == 'octvideo' else target}"
    main(["--checkpoint", str(file), "--format", target, "--output", str(out)])
    network = load_network(out)
    assert (network.threshold, network.seen) == (0.25, seen)


def test_peer_checkpoint_becomes_octvideos(tmp_path: Path) -> None:
    cfg, file = saved(tmp_path, f"{SMALL} MODEL.ARCH slow")
    own = torch.load(file, weights_only=True)["model"]
    name = peer_names.octvideo(1, False, ((),) * 4)
    names = {name(layer): peer_names.pyslowfast(layer) for layer in peer_names.layers((1, 1, 1, 1), 1, ((),) * 4)}
    state = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in own.items()}
    torch.save({"model_state": state}, tmp_path / "peer.pyth")
    save_cfg(cfg, tmp_path / "slow.yaml")
    out = tmp_path / "ours.pt"
    command = [sys.executable, "tools/convert.py", "--format", "octvideo", "--output", str(out)]
    command += ["--checkpoint", str(tmp_path / "peer.pyth")]
    root = Path(__file__).parents[2]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert refused.returncode == 2 and "--cfg FILE" in refused.stderr and "Traceback" not in refused.stderr
    done = subprocess.run([*command, "--cfg", str(tmp_path / "slow.yaml")], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert f"{len(own)} tensors matched by the names of PySlowFast" in done.stdout
    network = load_network(out)
    assert all(torch.equal(value, own[key]) for key, value in network.model.state_dict().items())
