"""The options of Table 8 reach every octave convolution of the networks, and take effect."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from octvideo.config import load_cfg
from octvideo.models import build_model
from octvideo.octave import OctConv2d, OctConv3d

ONE_BLOCK = "MODEL.NUM_CLASSES 5 MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 OCTAVE.ALPHA 0.5 DATA.TRAIN_CROP 64"
NETWORKS = {
    "i3d": f"MODEL.ARCH i3d {ONE_BLOCK} DATA.NUM_FRAMES 4 MODEL.NONLOCAL [[],[0],[],[]]",
    "slowfast": f"MODEL.ARCH slowfast {ONE_BLOCK} DATA.NUM_FRAMES 8 OCTAVE.FAST_ALPHA 0.5",
    "resnet50_preact": f"MODEL.ARCH resnet50_preact {ONE_BLOCK} DATA.NUM_FRAMES 1",
    "se_resnet50": f"MODEL.ARCH se_resnet50 {ONE_BLOCK} DATA.NUM_FRAMES 1",
    "mobilenet_v2_100": "MODEL.ARCH mobilenet_v2_100 MODEL.NUM_CLASSES 5 OCTAVE.ALPHA 0.5 DATA.NUM_FRAMES 1",
}
SWITCHES = {
    "OCTAVE.DOWNSAMPLE": ("down", {"max": "max", "conv": "conv"}),
    "OCTAVE.HIGH_TO_LOW": ("high_to_low", {"False": False}),
    "OCTAVE.LOW_TO_HIGH": ("low_to_high", {"False": False}),
}


def build(name: str, *overrides: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    cfg = load_cfg(None, [*NETWORKS[name].split(), "MODEL.DROPOUT", "0", *overrides])
    return build_model(cfg), torch.randn(2, 3, cfg.DATA.NUM_FRAMES, 64, 64)


def octave_layers(network: nn.Module) -> list[OctConv2d | OctConv3d]:
    """The convolutions that see or give a pair."""
    layers = [layer for layer in network.modules() if isinstance(layer, OctConv2d | OctConv3d)]
    return [layer for layer in layers if layer.in_low or layer.out_low]


def gradients(network: nn.Module, clips: torch.Tensor) -> None:
    """Of the sum of the squared logits; norms scale, since some start at 0."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    network(clips).square().sum().backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing, "a parameter without a gradient stops DistributedDataParallel"


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_option_reaches_every_layer(name, key):
    attribute, values = SWITCHES[key]
    with torch.device("meta"):
        for text, value in values.items():
            network, _ = build(name, key, text)
            layers = octave_layers(network)
            assert len(layers) >= 12 and all(getattr(layer.ablation, attribute) == value for layer in layers)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mobilenet_v2_100"])
@pytest.mark.parametrize(("down", "up"), [(True, True), (False, True), (True, False), (False, False)])
def test_only_disabled_path_lacks_a_gradient(name, down, up):
    network, clips = build(name, "OCTAVE.HIGH_TO_LOW", str(down), "OCTAVE.LOW_TO_HIGH", str(up))
    gradients(network, clips)
    both = 0
    for layer in octave_layers(network):
        grad = layer.weight.grad
        paths = {
            "H->H": (grad[: layer.out_high, : layer.in_high], True),
            "L->L": (grad[layer.out_high :, layer.in_high :], True),
            "H->L": (grad[layer.out_high :, : layer.in_high], down or not layer.in_low),
            "L->H": (grad[: layer.out_high, layer.in_high :], up or not layer.out_low),
        }
        both += bool(layer.in_low and layer.out_low)
        for path, (part, is_on) in paths.items():
            assert not part.numel() or bool(part.any()) == is_on, (path, layer)
    assert both >= 6, "layers with a pair on both sides, which the switches are for"


@pytest.mark.parametrize("name", NETWORKS)
def test_each_downsampling_gives_other_logits(name):
    logits = []
    for down in ("avg", "max", "conv"):
        network, clips = build(name, "OCTAVE.DOWNSAMPLE", down)  # each from the same seed
        with torch.no_grad():
            logits.append(network.train()(clips))
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in [logits[:2], logits[1:], logits[::2]])
