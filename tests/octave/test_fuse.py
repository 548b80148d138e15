"""Batch norms folded into convolutions give the outputs of before, with fewer layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import densenet121, resnet18

from octvideo.config import load_cfg
from octvideo.models import build_model
from octvideo.octave import OctBatchNorm3d, OctConv3d, fold_batch_norm, octavize

_SMALL = ["MODEL.BLOCKS", "[1,2,1,1]", "MODEL.WIDTH", "16", "MODEL.NUM_CLASSES", "7", "DATA.TRAIN_CROP", "64"]


def live(model, seed=0):
    """Weights and statistics as after training: nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.3)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_one_layer_by_hand(alpha):
    torch.manual_seed(0)
    layer = live(
        nn.Sequential(OctConv3d(4, 8, 3, padding=1, alpha_in=0, alpha_out=alpha), OctBatchNorm3d(8, alpha=alpha))
    )
    state = layer[1].state_dict()
    factor = state["weight"] / (state["running_var"] + 1e-5).sqrt()
    folded = fold_batch_norm(layer)
    assert isinstance(folded[1], nn.Identity) and isinstance(layer[1], OctBatchNorm3d)
    torch.testing.assert_close(folded[0].weight, layer[0].weight * factor[:, None, None, None, None])
    bias = (layer[0].bias - state["running_mean"]) * factor + state["bias"]
    torch.testing.assert_close(folded[0].bias, bias)


@pytest.mark.parametrize("arch", ["c2d", "i3d", "slow", "slowfast"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_networks(arch, alpha):
    frames = "8"
    cfg = load_cfg(None, [*_SMALL, "MODEL.ARCH", arch, "OCTAVE.ALPHA", str(alpha), "DATA.NUM_FRAMES", frames])
    torch.manual_seed(0)
    model = live(build_model(cfg))
    folded = fold_batch_norm(model)
    assert norms(model) and not norms(folded)
    clip = torch.randn(2, 3, 8, 70, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(clip), model(clip), rtol=1e-3, atol=1e-4)


def test_non_local_blocks():
    cfg = load_cfg(None, [*_SMALL, "MODEL.NONLOCAL", "[[],[0],[],[]]", "OCTAVE.ALPHA", "0.25"])
    model = live(build_model(cfg))
    folded = fold_batch_norm(model)
    assert not norms(folded)
    clip = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(clip), model(clip), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", [resnet18, densenet121])
def test_octavized_and_pre_activation(network):
    """DenseNet normalises before it convolves: the norms that follow a concatenation stay."""
    torch.manual_seed(0)
    model = live(octavize(network(num_classes=5), 0.25))
    folded = fold_batch_norm(model)
    assert len(norms(folded)) < len(norms(model)) and (network is densenet121) == bool(norms(folded))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), model(image), rtol=1e-3, atol=1e-4)


def test_a_shared_output_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    model = live(Net())
    folded = fold_batch_norm(model)
    image = torch.randn(1, 3, 4, 4)
    assert norms(folded) and torch.equal(folded(image), model(image))


def test_a_layer_in_two_places_is_left_alone():
    conv = nn.Conv2d(4, 4, 1)
    model = live(nn.Sequential(conv, nn.BatchNorm2d(4), nn.Sequential(conv, nn.ReLU())))
    assert norms(fold_batch_norm(model)) == ["1"]


def test_control_flow_is_looked_at_part_by_part():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            return self.part(x if x.sum() > 0 else -x)

    model = live(Net())
    folded = fold_batch_norm(model)
    image = torch.randn(1, 3, 4, 4)
    assert not norms(folded)
    torch.testing.assert_close(folded(image), model(image))
