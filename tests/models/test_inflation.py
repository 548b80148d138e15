"""Weights of images in a video network: a video of one repeated frame gives the image network's features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import inflate, load_weights
from octvideo.octave import OctBatchNorm2d, OctConv2d

SMALL = "MODEL.NUM_CLASSES 10 MODEL.BLOCKS [1,2,2,1] MODEL.WIDTH 64 DATA.TRAIN_CROP 64"


def build(text: str) -> nn.Module:
    return build_model(load_cfg(None, [*SMALL.split(), *text.split()])).eval()


def random_norms(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def of_torchvision() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 2, 1], num_classes=10)


def of_timm() -> nn.Module:
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 2, 2, 1), num_classes=10)


def octave_twin(net: nn.Module, alpha: float) -> nn.Module:
    """The same ResNet of images with the same weights on two frequencies: layer1 to layer3, which layer4 merges."""
    for name, module in list(net.named_modules()):
        if not name.startswith("layer"):
            continue
        first = ".0.conv1" in name or "downsample" in name
        alpha_in = 0 if name.startswith("layer1.0.") and first else alpha
        alpha_out = 0 if name.startswith("layer4") else alpha
        if name.startswith("layer4") and not (name.startswith("layer4.0.") and first):
            alpha_in = 0
        new: nn.Module
        if isinstance(module, nn.Conv2d):
            sizes = module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding
            new = OctConv2d(*sizes, bias=False, alpha_in=alpha_in, alpha_out=alpha_out)
        elif isinstance(module, nn.BatchNorm2d):
            new = OctBatchNorm2d(module.num_features, alpha=alpha_out)
        else:
            continue
        new.load_state_dict(module.state_dict())
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, new)
    return net.eval()


def repeated(image: Tensor, frames: int) -> Tensor:
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def assert_repeated_frame_gives_logits(image_net: nn.Module, video_net: nn.Module) -> None:
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = image_net(image)
        logits = video_net(repeated(image, 8))
    assert expected.std() > 0.01
    assert torch.allclose(logits, expected, atol=1e-4 * expected.abs().max().item())


def test_inflate_fills_the_kernel() -> None:
    weight = torch.randn(2, 3, 5, 5)
    centre, mean = inflate(weight, 3, "centre"), inflate(weight, 3, "mean")
    assert centre.shape == mean.shape == (2, 3, 3, 5, 5)
    assert torch.equal(centre[:, :, 1], weight) and not centre[:, :, ::2].any()
    assert torch.allclose(mean.sum(2), weight) and torch.equal(mean[:, :, 0], mean[:, :, 2])
    assert torch.equal(inflate(weight, 1, "mean"), inflate(weight, 1, "centre"))
    with pytest.raises(ValueError, match="'mean' or 'centre'"):
        inflate(weight, 3, "median")


@pytest.mark.parametrize("alpha", [0, 0.1, 0.25, 0.5, 1])
@pytest.mark.parametrize("arch", ["c2d", "i3d"])
@pytest.mark.parametrize("make", [of_torchvision, of_timm])
def test_repeated_frame_gives_image_logits(
    tmp_path: Path, make: Callable[[], nn.Module], arch: str, alpha: float
) -> None:
    image_net = random_norms(make())
    torch.save(image_net.state_dict(), tmp_path / "image.pth")
    video_net = build(f"MODEL.ARCH {arch} OCTAVE.ALPHA {alpha}")
    report = load_weights(video_net, tmp_path / "image.pth", strict=True, inflation="centre")
    assert report.layout == "torchvision" and len(report.inflated) == 1 + 6 * 3 + 4
    image_net = octave_twin(image_net, alpha) if alpha else image_net
    assert_repeated_frame_gives_logits(image_net, video_net)


@pytest.mark.parametrize("alpha", [0, 0.25])
def test_mean_inflation_matches_inside_the_clip(tmp_path: Path, alpha: float) -> None:
    torch.save(random_norms(of_torchvision()).state_dict(), tmp_path / "image.pth")
    nets = {how: build(f"MODEL.ARCH i3d OCTAVE.ALPHA {alpha} DATA.NUM_FRAMES 32") for how in ("mean", "centre")}
    clips = repeated(torch.randn(1, 3, 64, 64), 32)
    features = {}
    for how, net in nets.items():
        load_weights(net, tmp_path / "image.pth", inflation=how)
        with torch.inference_mode():
            x = clips
            for block in net.blocks[:-1]:
                x = block(x)
        features[how] = x  # (1, 2048, 16, 2, 2)
    middle = {how: x[:, :, 7:9] for how, x in features.items()}
    assert torch.allclose(middle["mean"], middle["centre"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features["mean"][:, :, 0], features["centre"][:, :, 0], rtol=1e-2)


def test_imagenet_resnet_50_matches_every_name(tmp_path: Path) -> None:
    for name, state in (
        ("torchvision", torchvision.models.resnet50().state_dict()),
        ("timm", timm.create_model("resnet50").state_dict()),
    ):
        torch.save(state, tmp_path / f"{name}.pth")
        net = build_model(load_cfg("oct_i3d_k400.yaml"))
        report = load_weights(net, tmp_path / f"{name}.pth")
        assert len(report.matched) == len(state) - 2 and len(report.inflated) == 53
        assert not report.missing and not report.unexpected
        assert "the head is new: the file has 1000 classes, the network 400" in str(report)


@pytest.mark.parametrize("alpha", [0, 0.25])
def test_image_network_of_octvideo_starts_a_video_network(tmp_path: Path, alpha: float) -> None:
    """As in the study of inflation of benchmarks/evidence.py."""
    keys = f"MODEL.WIDTH 16 OCTAVE.ALPHA {alpha}"
    image_net = random_norms(build(f"MODEL.ARCH resnet50 DATA.NUM_FRAMES 1 {keys}"))
    torch.save(image_net.state_dict(), tmp_path / "image.pth")
    video_net = build(f"MODEL.ARCH i3d {keys}")
    report = load_weights(video_net, tmp_path / "image.pth", strict=True, inflation="centre")
    assert len(report.inflated) == 1 + 6 * 3 + 4
    assert_repeated_frame_gives_logits(image_net, video_net)


def test_other_image_networks_are_refused(tmp_path: Path) -> None:
    for net in (torchvision.models.resnet18(), timm.create_model("resnet26d"), torchvision.models.mobilenet_v2()):
        torch.save(net.state_dict(), tmp_path / "other.pth")
        with pytest.raises(UserError, match=r"other\.pth: the weights are of another network"):
            load_weights(build("MODEL.ARCH c2d"), tmp_path / "other.pth")
