"""Octave gets into this project's networks by a plan, which ``octavize`` and checkpoints know too."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from octvideo.cli import predict, run
from octvideo.config import load_cfg
from octvideo.engine.networks import other_plan
from octvideo.models import build_model
from octvideo.octave import Plan, octavize

TINY = "MODEL.NUM_CLASSES 5 MODEL.BLOCKS [1,2,1,1] MODEL.WIDTH 8 DATA.TRAIN_CROP 64 MODEL.DROPOUT 0"
NETWORKS = {
    "i3d": f"MODEL.ARCH i3d {TINY} DATA.NUM_FRAMES 4",
    "as 2D": f"MODEL.ARCH c2d {TINY} DATA.NUM_FRAMES 4 MODEL.CONV_AS_2D True",
    "non-local": f"MODEL.ARCH i3d {TINY} DATA.NUM_FRAMES 4 MODEL.NONLOCAL [[],[0],[],[]]",
    "slowfast": f"MODEL.ARCH slowfast {TINY} DATA.NUM_FRAMES 8",
    "ablation": f"MODEL.ARCH i3d {TINY} DATA.NUM_FRAMES 4 OCTAVE.DOWNSAMPLE max OCTAVE.POOL_LEAVING True",
    "stages": f"MODEL.ARCH slow {TINY} DATA.NUM_FRAMES 4 OCTAVE.STAGES [3,4,5]",
    "se": f"MODEL.ARCH se_resnet50 {TINY} DATA.NUM_FRAMES 1 OCTAVE.POOL_VANILLA True",
    "preact": f"MODEL.ARCH resnet50_preact {TINY} DATA.NUM_FRAMES 1",
    "densenet": "MODEL.ARCH densenet121 MODEL.NUM_CLASSES 5 DATA.NUM_FRAMES 1",
    "mobilenet v1": "MODEL.ARCH mobilenet_v1_075 MODEL.NUM_CLASSES 5 DATA.NUM_FRAMES 1",
    "mobilenet v2": "MODEL.ARCH mobilenet_v2 MODEL.NUM_CLASSES 5 DATA.NUM_FRAMES 1",
    "x3d": "MODEL.ARCH x3d_xs MODEL.NUM_CLASSES 5 DATA.NUM_FRAMES 4 DATA.TRAIN_CROP 64",
}


def build(name: str, alpha: float, multiple: int = 1) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    cfg = load_cfg(None, [*NETWORKS[name].split(), "OCTAVE.ALPHA", str(alpha), "OCTAVE.MULTIPLE", str(multiple)])
    return build_model(cfg).eval(), torch.randn(1, 3, cfg.DATA.NUM_FRAMES, 64, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_octavize_makes_the_configured_network(name: str) -> None:
    """Of the vanilla network of the same configuration, bit for bit."""
    vanilla, clips = build(name, 0)
    expected, _ = build(name, 0.25, multiple=4)
    octave = octavize(vanilla, 0.25, multiple=4)
    assert octave.octave_plan == expected.octave_plan and octave.octave_plan.has_pairs
    with torch.inference_mode():
        found = octave(clips)
        assert torch.equal(found, expected(clips)) and not torch.equal(found, vanilla(clips))
    stored = json.loads(json.dumps(expected.octave_plan.as_dict()))
    assert Plan.from_dict(stored) == expected.octave_plan


def test_copies_carry_the_plan() -> None:
    vanilla, clips = build("i3d", 0)
    expected, _ = build("i3d", 0.25)
    for network in copy.deepcopy(vanilla), pickle.loads(pickle.dumps(vanilla)):
        assert torch.equal(octavize(network, 0.25)(clips), expected(clips))


def test_an_octave_network_is_not_octavized_again() -> None:
    with pytest.raises(ValueError, match="an octave network already: pass the vanilla one"):
        octavize(build("i3d", 0.25)[0], 0.5)
    network, clips = build("i3d", 0.25)
    same = octavize(network, 0)
    assert same.octave_plan == network.octave_plan and torch.equal(same(clips), network(clips))


def test_weights_of_another_plan_are_told() -> None:
    network, _ = build("i3d", 0.25)
    text = f"{NETWORKS['i3d']}".split()
    config = load_cfg(None, [*text, "OCTAVE.ALPHA", "0.5"]).dump()
    for content in {"plan": build("i3d", 0.5)[0].octave_plan.as_dict()}, {"config": config}:
        said = other_plan(network, content, Path("net.pt"))
        assert "octave layers of alpha 0.5, the network has" in said and "\n" not in said
    assert "trained with no octave layers" in other_plan(network, {}, Path("net.pt"))
    assert not other_plan(network, {"plan": network.octave_plan.as_dict()}, Path("net.pt"))
    assert not other_plan(build("i3d", 0)[0], {}, Path("net.pt"))


def test_predict_tells_of_another_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint with the plan that training stores, read with a configuration of another alpha."""
    network, _ = build("i3d", 0.25)
    cfg = load_cfg(None, [*NETWORKS["i3d"].split(), "OCTAVE.ALPHA", "0.25"])
    names = [f"action {number}" for number in range(5)]
    content = {"model": network.state_dict(), "config": cfg.dump(), "classes": names}
    torch.save({**content, "plan": network.octave_plan.as_dict()}, tmp_path / "net.pt")
    other = tmp_path / "other.yaml"
    other.write_text(cfg.dump().replace("ALPHA: 0.25", "ALPHA: 0.5"), encoding="utf-8")
    clip = str(Path(__file__).parents[2] / "octvideo" / "assets" / "example_jack.mp4")
    for options, warned in ([], False), (["--cfg", str(other)], True):
        assert run(predict.main, [clip, "--checkpoint", str(tmp_path / "net.pt"), *options]) == 0
        assert ("net.pt: a warm start" in capsys.readouterr().err) == warned
