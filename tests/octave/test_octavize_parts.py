"""octavize on concatenations, custom layers, lists and code that looks at values."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d, DropPath
from torch import Tensor, nn

from octvideo.octave import OctaveTensor, OctBatchNorm2d, OctConv2d, fold_batch_norm, merge, octavize, pool_globally
from octvideo.octave._probe import is_channelwise_norm, is_elementwise
from octvideo.octave.segments import join_segments, simplify, split_segments

SEGMENTS = ((3, 1), (0, 2), (2, 2))


def test_segments_there_and_back() -> None:
    x = torch.arange(10)
    high, low = split_segments(x, SEGMENTS, 0)
    assert (high.tolist(), low.tolist()) == ([0, 1, 2, 6, 7], [3, 4, 5, 8, 9])
    assert torch.equal(join_segments(high, low, SEGMENTS, 0), x)
    same = simplify(SEGMENTS)
    assert same == ((3, 3), (2, 2)) and torch.equal(split_segments(x, same, 0)[1], low)


@pytest.mark.parametrize("groups", [1, 10])
def test_convolution_of_a_concatenation(groups: int) -> None:
    """On a map that is constant in space Eq. 4 is the vanilla 1x1 convolution of the merged tensor."""
    conv = OctConv2d(10, 20, 1, groups=groups, alpha_in=0.5, alpha_out=0.25, in_segments=SEGMENTS)
    vanilla = nn.Conv2d(10, 20, 1, groups=groups)
    vanilla.load_state_dict(conv.state_dict())
    x = torch.randn(2, 10, 1, 1).expand(2, 10, 4, 6)
    high, low = split_segments(x, SEGMENTS, 1)
    pair = OctaveTensor(high, low[..., ::2, ::2], SEGMENTS)
    assert torch.equal(merge(pair), x)
    torch.testing.assert_close(pool_globally(pair), x.mean((2, 3)))
    torch.testing.assert_close(merge(conv(pair)), vanilla(x))
    with pytest.raises(ValueError, match="in_segments"):
        OctConv2d(11, 20, 1, alpha_in=0.5, alpha_out=0.25, in_segments=SEGMENTS)
    with pytest.raises(ValueError, match="groups must be 1 or in_channels"):
        OctConv2d(10, 20, 1, groups=2, alpha_in=0.5, alpha_out=0.25, in_segments=SEGMENTS)


def test_norm_of_a_concatenation_has_the_vanilla_state() -> None:
    vanilla, norm = nn.BatchNorm2d(10), OctBatchNorm2d(10, alpha=0.5, segments=SEGMENTS)
    for tensor in vanilla.state_dict().values():
        tensor.copy_(torch.arange(1, 11) if tensor.dim() else tensor)
    norm.load_state_dict(vanilla.state_dict())
    assert norm.low is not None and norm.low.weight.tolist() == [4, 5, 6, 9, 10]
    assert all(torch.equal(value, vanilla.state_dict()[key]) for key, value in norm.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        norm.load_state_dict(nn.BatchNorm2d(9).state_dict())


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Centre(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


@pytest.mark.parametrize(
    ("layer", "does"),
    [
        (Swish(), True), (nn.ReLU(inplace=True), True), (nn.Hardtanh(0, 6), True), (Centre(), False),
        (nn.Softmax(1), False), (nn.ChannelShuffle(2), False), (nn.AvgPool2d(3, 1, 1), False), (nn.RReLU(), False),
        (nn.Flatten(2), False), (nn.LocalResponseNorm(3), False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_elementwise_layers_are_known_by_what_they_do(layer: nn.Module, does: bool) -> None:
    assert is_elementwise(layer, 4) is does


def test_a_norm_with_an_activation_goes_through() -> None:
    class Normed(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) - x.mean(1, keepdim=True)

    assert is_channelwise_norm(BatchNormAct2d(8), 4) and not is_channelwise_norm(Normed(8), 4)
    vanilla = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1), BatchNormAct2d(8), nn.Conv2d(8, 8, 3, 2, 1)
    ).eval()  # fmt: skip
    vanilla[2].running_mean.uniform_(-1, 1)
    network = octavize(vanilla, 0.5, example_input=torch.empty(1, 3, 32, 32))
    assert isinstance(network.get_submodule("2"), OctBatchNorm2d)
    assert list(network.state_dict()) == list(vanilla.state_dict())
    assert network.load_state_dict(vanilla.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for model in (vanilla, network):  # the activation stays when the norm is folded
        torch.testing.assert_close(fold_batch_norm(model)(x), model(x))


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1)
        self.path, self.end = DropPath(0.5), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.path(self.a(self.stem(x))))


def test_drop_path_drops_both_groups() -> None:
    network = octavize(Dropped(), 0.5, example_input=torch.empty(1, 3, 32, 32)).train()
    seen: list[OctaveTensor] = []
    network.get_submodule("path").register_forward_hook(lambda layer, inputs, y: seen.append(y))
    network(torch.randn(64, 3, 32, 32))
    high, low = ((group == 0).all(dim=(1, 2, 3)) for group in seen[0])
    assert torch.equal(high, low) and 0 < high.sum() < 64
    network.eval()(torch.randn(64, 3, 32, 32))
    assert not (seen[1].low == 0).all(dim=(1, 2, 3)).any()


class Body(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 8, 3, 2, 1),
        )  # fmt: skip


class LooksAtValues(nn.Module):
    """It cannot be run without values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(8, 2)

    def forward(self, x: Tensor, scale: Any = None) -> Tensor:
        if float(x.sum()) > 0:
            x = -x
        y = self.body(x).mean((2, 3))
        return self.head(y if scale is None else y * scale)


class Pathways(nn.Module):
    """Two pathways in a list that is written to, a lateral connection by concatenation, and a part like the above."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList([nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(3, 8, 3, 4, 1)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)])
        self.joined, self.end = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.strange = LooksAtValues()

    def forward(self, x: list[Tensor]) -> Tensor:
        images = x[0]
        for place in range(len(x)):
            x[place] = self.convs[place](self.stems[place](x[place]))
        return self.end(self.joined(torch.cat(x, 1))).mean((1, 2, 3)) + self.strange(images).sum(1)


def _octaves(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, OctConv2d)]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_code_that_looks_at_its_input(alpha: float) -> None:
    vanilla = LooksAtValues().eval()
    network = octavize(vanilla, alpha, example_input=torch.empty(1, 3, 64, 64))
    x = torch.randn(1, 3, 64, 64)
    assert isinstance(network, LooksAtValues)
    assert _octaves(network) == ([] if alpha == 0 else ["body.1", "body.4", "body.5"])
    assert list(network.state_dict()) == list(vanilla.state_dict())
    assert torch.equal(network(x), vanilla(x)) is (alpha == 0)
    assert torch.equal(network(x), network(-x))
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x)) and twin.octave_report == network.octave_report


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_lists_and_opaque_parts(alpha: float) -> None:
    vanilla = Pathways().eval()
    network = octavize(vanilla, alpha, example_input=[torch.empty(1, 3, 64, 64), torch.empty(1, 3, 64, 64)])
    x = [torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)]
    y = network(list(x))
    assert torch.equal(y, vanilla(list(x))) is (alpha == 0)
    if alpha:
        assert {"convs.0", "convs.1", "joined", "end", "strange.body.1"} <= set(_octaves(network))
        assert network.get_submodule("joined").in_segments == ((4, 4), (4, 4))
    assert list(network.state_dict()) == list(vanilla.state_dict())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(list(x)), y)
