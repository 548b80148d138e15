"""Oct-ResNets of d-li14/octconv.pytorch in a video network: four kernels per layer become one, high channels first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights

BLOCKS = (1, 2, 2, 2)
SMALL = "MODEL.NUM_CLASSES 10 MODEL.BLOCKS [1,2,2,2] MODEL.WIDTH 16 DATA.TRAIN_CROP 64 OCTAVE.ALPHA 0.5"


class Paths(nn.Module):
    """One kernel per path with channels on both sides, then one norm per group."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, low_in: bool, low_out: bool) -> None:
        super().__init__()
        self.conv, self.stride = nn.Module(), stride
        ins = {"h": width // 2 if low_in else width, "l": width // 2 if low_in else 0}
        outs = {"h": out // 2 if low_out else out, "l": out // 2 if low_out else 0}
        for path in ("l2l", "l2h", "h2l", "h2h"):
            if ins[path[0]] and outs[path[2]]:
                layer = nn.Conv2d(ins[path[0]], outs[path[2]], kernel, padding=kernel // 2, bias=False)
                setattr(self.conv, f"conv_{path}", layer)
        self.bn_h = nn.BatchNorm2d(outs["h"])
        self.bn_l = nn.BatchNorm2d(outs["l"]) if low_out else None

    def forward(self, high: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor | None]:
        high = F.avg_pool2d(high, 2) if self.stride == 2 else high
        y = self.conv.conv_h2h(high)
        z = self.conv.conv_h2l(F.avg_pool2d(high, 2)) if self.bn_l else None
        if low is not None:
            to_high = self.conv.conv_l2h(low)
            y = y + (to_high if self.stride == 2 else F.interpolate(to_high, scale_factor=2))
            if self.bn_l:
                z = z + self.conv.conv_l2l(F.avg_pool2d(low, 2) if self.stride == 2 else low)
        return self.bn_h(y), self.bn_l(z) if self.bn_l else None


class Block(nn.Module):
    def __init__(self, width: int, planes: int, stride: int, first: bool, low_in: bool, low_out: bool) -> None:
        super().__init__()
        self.conv1 = Paths(width, planes, 1, 1, low_in, low_out)
        self.conv2 = Paths(planes, planes, 3, stride, low_out, low_out)
        self.conv3 = Paths(planes, 4 * planes, 1, 1, low_out, low_out)
        if first:
            self.downsample = nn.Sequential(Paths(width, 4 * planes, 1, stride, low_in, low_out))

    def forward(self, pair: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        x = pair
        for conv in (self.conv1, self.conv2, self.conv3):
            y, z = conv(*x)
            x = (y, z) if conv is self.conv3 else (y.relu(), None if z is None else z.relu())
        high, low = self.downsample[0](*pair) if hasattr(self, "downsample") else pair
        return (x[0] + high).relu(), None if x[1] is None else (x[1] + low).relu()


class OctResNet(nn.Module):
    """Its modules and their names: post-activation, alpha 0.5 from layer1 to layer3, layer4.0 leaves."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for layer, depth in enumerate(BLOCKS, 1):
            planes, blocks = width * 2 ** (layer - 1), []
            for index in range(depth):
                first = index == 0
                low_in = layer > 1 and (first or layer < 4) or layer == 1 and not first
                blocks.append(Block(channels, planes, 2 if first and layer > 1 else 1, first, low_in, layer < 4))
                channels = 4 * planes
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        pair = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1), None
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            pair = layer(pair)
        return self.fc(pair[0].mean((2, 3)))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[OctResNet, Path]:
    """A network with random norms, and its file."""
    torch.manual_seed(0)
    net = OctResNet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.1)
    file = tmp_path_factory.mktemp("octave") / "oct_resnet.pth"
    torch.save(net.state_dict(), file)
    return net.eval(), file


def build(*more: str) -> nn.Module:
    return build_model(load_cfg(None, [*SMALL.split(), *more])).eval()


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
def test_repeated_frame_gives_octave_logits(peer: tuple[OctResNet, Path], arch: str) -> None:
    net, file = peer
    video_net = build("MODEL.ARCH", arch, "OCTAVE.POOL_LEAVING", "True")
    report = load_weights(video_net, file, strict=True, inflation="centre")
    assert "d-li14" in str(report) and not report.notes
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = net(image)
        logits = video_net(image.unsqueeze(2).expand(-1, -1, 8, -1, -1))
    assert expected.std() > 0.01
    assert torch.allclose(logits, expected, atol=1e-5 * expected.abs().max().item())


def test_pool_leaving_is_suggested(peer: tuple[OctResNet, Path]) -> None:
    net = build("MODEL.ARCH", "c2d")
    assert "OCTAVE.POOL_LEAVING True" in str(load_weights(net, peer[1]))
    pooling = build("MODEL.ARCH", "c2d", "OCTAVE.POOL_LEAVING", "True")
    pooling.load_state_dict(net.state_dict())
    # Where a map is the same everywhere, away from the padding, pooling first changes nothing.
    block = [module.blocks[5].res_blocks[0].branch2.conv_b for module in (net, pooling)]
    flat = torch.randn(1, 128, 1, 1, 1).expand(-1, -1, 2, 12, 12).contiguous()
    with torch.inference_mode():
        plain, pooled = (conv(flat)[..., 1:-1, 1:-1] for conv in block)
    assert plain.shape == pooled.shape and torch.allclose(plain, pooled, atol=1e-5)


@pytest.mark.parametrize(
    "keys", ["OCTAVE.ALPHA 0.25", "OCTAVE.ALPHA 0", "OCTAVE.STAGES [2,3,4,5]", "OCTAVE.STAGES [3,4]"]
)
def test_other_alpha_or_stages_are_refused(peer: tuple[OctResNet, Path], keys: str) -> None:
    with pytest.raises(UserError, match=r"layer\d\.0\.\S+ has .*high.*low.*set OCTAVE\.ALPHA 0\.5, OCTAVE\.STAGES"):
        load_weights(build("MODEL.ARCH", "c2d", *keys.split()), peer[1])
