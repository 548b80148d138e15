"""What PyTorch's functions do with a pair, compared with what they do with its merged tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.octave import OctaveTensor, merge
from octvideo.octave.segments import split_segments

SEGMENTS = ((3, 1), (2, 2))


def pair(seed: int = 0, size: int = 8) -> OctaveTensor:
    generator = torch.Generator().manual_seed(seed)
    high = torch.randn(2, 5, size, size, generator=generator)
    return OctaveTensor(high, torch.randn(2, 3, size // 2, size // 2, generator=generator), SEGMENTS)


GATE = torch.linspace(-1, 2, 16).view(2, 8, 1, 1)
VECTOR = torch.linspace(-1, 2, 8)[:, None, None]
KEEP = torch.tensor([0.0, 2.0])[:, None, None, None]

# Functions that keep the value in each 2x2 square equal: on pairs they are the function on the merged tensor.
KEEP_PAIRS: dict[str, Callable[..., object]] = {
    "method": lambda x: x.sigmoid().clamp(min=0.3),
    "function": lambda x: torch.sigmoid(x) + F.relu6(x + 3) / 6,
    "layers": lambda x: nn.Sequential(nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.GELU())(x),
    "two": lambda x: x * torch.tanh(x) - 2 / (x.square() + 1),
    "gate": lambda x: x * GATE,
    "gate first": lambda x: GATE * x + VECTOR,
    "drop path": lambda x: x.div(0.5) * KEEP,
    "number of one element": lambda x: x * torch.ones(1) - x.mean(),
    "condition": lambda x: torch.where(x > 0, x, 0.1 * x),
    "size": lambda x: x / x.shape[1] * (x.shape[-1] * x.shape[-2]) ** -0.5,
    "concatenation": lambda x: torch.cat([x, -x], dim=1),
    "kinds": lambda x: x.double().float().contiguous(),
}
# Functions that need the whole map.
MERGE: dict[str, Callable[..., object]] = {
    "slice": lambda x: x[:, ::2],
    "flatten": lambda x: x.flatten(2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "softmax": lambda x: F.softmax(x, 1),
    "group norm": lambda x: F.group_norm(x, 2),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2.0),
    "convolution": lambda x: F.conv2d(x, torch.ones(4, 8, 3, 3)),
    "product": lambda x: x @ torch.ones(8, 2),
    "sum with a map": lambda x: x + torch.ones(2, 8, 8, 8),
    "map plus sum": lambda x: torch.ones(2, 8, 8, 8) + x,
    "other pooling": lambda x: F.max_pool2d(x, 3, 2),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 2),
    "whole sum": lambda x: x.sum(),
    "batch": lambda x: torch.cat([x, x], 0),
    "transposed": lambda x: x.mT,
}
MEANS: dict[str, Callable[..., object]] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean that keeps": lambda x: x.mean(dim=[-1, -2], keepdim=True),
    "layer": lambda x: nn.AdaptiveAvgPool2d((1, 1))(x),
}


@pytest.mark.parametrize("name", KEEP_PAIRS)
def test_works_on_groups(name: str) -> None:
    y = KEEP_PAIRS[name](pair())
    assert isinstance(y, OctaveTensor) and y.low is not None and y.low.shape[-1] == 4
    torch.testing.assert_close(merge(y), KEEP_PAIRS[name](merge(pair())))


@pytest.mark.parametrize("name", MERGE)
def test_gets_the_merged_tensor(name: str) -> None:
    y, expected = MERGE[name](pair()), MERGE[name](merge(pair()))
    assert isinstance(y, Tensor) and isinstance(expected, Tensor) and torch.equal(y, expected)


@pytest.mark.parametrize("name", MEANS)
def test_global_mean_does_not_merge(name: str) -> None:
    y = MEANS[name](pair())
    assert isinstance(y, Tensor)
    torch.testing.assert_close(y, MEANS[name](merge(pair())))


def test_sum_of_different_orders_is_a_tensor() -> None:
    other = OctaveTensor(pair().high, pair().low, ((2, 2), (3, 1)))
    assert torch.equal(pair() + other, merge(pair()) + merge(other))


@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_pooling_keeps_the_octave(kernel: int, stride: int, padding: int, size: int) -> None:
    x = OctaveTensor(torch.randn(1, 2, size, size), torch.randn(1, 2, (size + 1) // 2, (size + 1) // 2))
    y = F.max_pool2d(x, kernel, stride, padding)
    assert x.high is not None
    assert torch.equal(y.high, F.max_pool2d(x.high, kernel, stride, padding))
    assert y.low.shape[-1] == (y.high.shape[-1] + 1) // 2


def test_writes_in_place_reach_every_name() -> None:
    x = pair()
    kept, expected = x, merge(x).clone()
    x += pair(1)
    x.mul_(2)
    F.relu(kept, inplace=True)
    expected = ((expected + merge(pair(1))) * 2).relu()
    assert torch.equal(merge(kept), expected) and torch.equal(merge(x), expected)


def test_write_that_would_be_lost_is_refused() -> None:
    x = pair()
    for write in (lambda: x.add_(torch.ones(2, 8, 8, 8)), lambda: x.fill_(1), lambda: x.__setitem__(0, 1)):
        with pytest.raises(NotImplementedError, match="cannot write into an octave pair"):
            write()


def test_dropout_draws_for_each_group() -> None:
    torch.manual_seed(0)
    y = F.dropout(pair(), 0.5, True)
    high, low = (0.3 < (group == 0).float().mean() < 0.7 for group in y)
    assert high and low and F.dropout(pair(), 0.5, False).shape == pair().shape


def test_gradients_are_those_of_the_merged_tensor() -> None:
    """Each low element is four equal elements of the merged tensor."""
    whole = merge(pair()).requires_grad_()
    x = pair()
    for group in x:
        group.requires_grad_()
    for value in (x, whole):
        (torch.sigmoid(value) * GATE).mean((2, 3)).square().sum().backward()
    high, low = split_segments(whole.grad, SEGMENTS, 1)
    torch.testing.assert_close(x.high.grad, high)
    torch.testing.assert_close(x.low.grad, low[..., ::2, ::2] * 4)


class Block(nn.Module):
    def forward(self, x: OctaveTensor) -> Tensor:
        y = F.relu(x * 2) + x
        y += x
        return torch.cat([y, F.max_pool2d(x, 3, 1, 1)], 1).mean((2, 3))


def test_compiles_in_one_graph() -> None:
    def network(high: Tensor, low: Tensor) -> Tensor:
        return Block()(OctaveTensor(high, low, SEGMENTS))

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*pair()), network(*pair()))
