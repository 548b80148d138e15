"""octavize on the networks of torchvision, timm and PyTorchVideo, full size, as their libraries build them.

The reference runs the vanilla network on full-size maps of all channels, with masks for what is low: it knows nothing
of pairs, of the order of their channels, or of how a weight is divided.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from octvideo.octave import OctaveTensor, OctConv2d, OctConv3d, octavize


def _hub(name: str) -> nn.Module:
    from pytorchvideo.models import hub

    return _any_size(getattr(hub, name)(pretrained=False))


def _any_size(model: nn.Module) -> nn.Module:
    # Heads without the fixed size of their pooling window, for inputs of any size.
    for layer in list(model.modules()):
        for child, pool in layer.named_children():
            if isinstance(pool, nn.AvgPool3d):
                setattr(layer, child, nn.AdaptiveAvgPool3d(1))
    return model


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, **options)
    return model


def _s3d() -> nn.Module:
    model = tv.video.s3d()
    model.avgpool = nn.AdaptiveAvgPool3d(1)
    return model


class Case(NamedTuple):
    """A network: small inputs to run it on, the size of its inputs as usual, and the least share of octave layers."""

    build: Callable[[], nn.Module]
    share: float  # of the convolutions outside squeeze-and-excitation that read or write a pair
    small: tuple[int, ...] = (3, 64, 64)
    usual: tuple[int, ...] = (3, 224, 224)


def _video(build: Callable[[], nn.Module], share: float, frames: int = 8, size: int = 224) -> Case:
    return Case(build, share, (3, 4 if frames < 16 else 8, 64, 64), (3, frames, size, size))


CASES = {
    "resnet50": Case(tv.resnet50, 0.8),
    "resnext50_32x4d": Case(tv.resnext50_32x4d, 0.8),
    "densenet121": Case(tv.densenet121, 0.7),
    "mobilenet_v2": Case(tv.mobilenet_v2, 0.6),
    "efficientnet_b0": Case(tv.efficientnet_b0, 0.55),
    "regnet_y_400mf": Case(tv.regnet_y_400mf, 0.6),
    "r3d_18": _video(tv.video.r3d_18, 0.75),
    "mc3_18": _video(tv.video.mc3_18, 0.75),
    "r2plus1d_18": _video(tv.video.r2plus1d_18, 0.75),
    "s3d": _video(_s3d, 0.7, 16),
    "c2d_r50": _video(lambda: _hub("c2d_r50"), 0.8),
    "i3d_r50": _video(lambda: _hub("i3d_r50"), 0.8),
    "slow_r50": _video(lambda: _hub("slow_r50"), 0.8),
    "slowfast_r50": _video(lambda: _hub("slowfast_r50"), 0.8, 32),
    "x3d_s": _video(lambda: _hub("x3d_s"), 0.6, 13, 160),
    "csn_r101": _video(lambda: _hub("csn_r101"), 0.8, 32),
    "r2plus1d_r50": _video(lambda: _hub("r2plus1d_r50"), 0.7, 16),
    "resnet26d": Case(lambda: _timm("resnet26d", drop_path_rate=0.1), 0.7),
    "seresnet50": Case(lambda: _timm("seresnet50"), 0.8),
    "resnetv2_50": Case(lambda: _timm("resnetv2_50"), 0.8),
}


class Network(NamedTuple):
    name: str
    vanilla: nn.Module
    octave: nn.Module
    small: Any
    usual: Any


def _inputs(name: str, shape: tuple[int, ...], batch: int, device: str = "cpu") -> Any:
    """One tensor, or for SlowFast a list: a quarter of the frames, and all of them."""
    x = torch.randn(batch, *shape, device=device)
    return [x[:, :, ::4], x] if name.startswith("slowfast") else x


QUICK = {"resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "r3d_18", "i3d_r50", "slowfast_r50", "x3d_s"}
PARAMS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """One at a time: the tests of a network run one after another, with the same two modules."""
    torch.manual_seed(0)
    case = CASES[request.param]
    vanilla = case.build().eval()
    for layer in vanilla.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # every channel its own
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
            layer.momentum = 1.0  # one batch gives the statistics, so that the signal keeps its size to the end
    with torch.no_grad():
        vanilla.train()(_inputs(request.param, case.small, 2))
    vanilla.eval()
    usual = _inputs(request.param, case.usual, 1, "meta")
    octave = octavize(vanilla, 0.25, example_input=usual)
    yield Network(request.param, vanilla, octave, _inputs(request.param, case.small, 1), usual)


def test_state_is_vanilla(network: Network) -> None:
    before, after = network.vanilla.state_dict(), network.octave.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    network.octave.load_state_dict(before)


class _Reference(TorchFunctionMode):
    """Eq. 4 with vanilla weights on full-size maps: a low channel has equal values in each 2x2 square.

    Which channels are low goes along with each tensor, as its attribute ``low``.
    """

    def __init__(self, vanilla: nn.Module, octave: nn.Module) -> None:
        super().__init__()
        self.network, twins = copy.deepcopy(vanilla), dict(octave.named_modules())
        for name, layer in self.network.named_modules():
            twin = twins.get(name)
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                layer.forward = partial(self._convolve, copy.copy(layer), twin)
            elif isinstance(layer, (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)):
                layer.forward = partial(self._pool, copy.copy(layer), bool(twin and twin._forward_pre_hooks))

    def run(self, inputs: Any) -> Any:
        with self:
            return self.network(inputs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        if isinstance(y, Tensor) and y.dim() >= 4 and not hasattr(y, "low"):
            tensors = [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor) and x.dim() == y.dim()]
            masks = [_low(x) for x in tensors]
            if func in (torch.cat, torch.concat):
                y.low = torch.cat(masks)
            elif tensors:  # of the map, not of what gates it
                largest = max(range(len(tensors)), key=lambda place: tensors[place].numel())
                if len(masks[largest]) == y.shape[1]:
                    y.low = masks[largest]
        return y

    def _pool(self, layer: Any, merged: bool, x: Tensor) -> Tensor:
        mask = _low(x)
        y: Tensor = layer(x)
        if not merged:
            y = torch.where(_over(mask, x) > 0, _double(layer(_half(x))), y)
        y.low = torch.zeros_like(mask) if merged else mask
        return y

    def _convolve(self, layer: Any, octave: Any, x: Tensor) -> Tensor:
        if not isinstance(octave, (OctConv2d, OctConv3d)):
            y: Tensor = layer(x)
            y.low = torch.zeros(layer.out_channels)
            return y
        reads, writes = octave.in_low > 0, octave.out_low > 0
        mask = _low(x) if reads else torch.zeros(layer.in_channels)
        depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        if depthwise:
            out = mask.repeat_interleave(layer.out_channels // layer.in_channels)
        else:
            out = torch.zeros(layer.out_channels)
            out[layer.out_channels - octave.out_low :] = 1
        assert (int(mask.sum()), int(out.sum())) == (octave.in_low, octave.out_low)
        high, low = x * (1 - _over(mask, x)), _half(x) * _over(mask, x)
        stride = layer.stride[-1]
        conv = copy.copy(layer)
        conv._parameters = {"weight": layer.weight, "bias": None}
        conv.stride = (*layer.stride[:-2], 1, 1)
        if layer.groups > 1 and not depthwise:
            conv.groups, conv._parameters["weight"] = 1, _without_groups(layer, octave)
        pooled = _pool(high, stride)
        y_high = conv(pooled)
        if reads:
            y_high = y_high + (conv(low) if stride == 2 else _double(conv(low)))
        y = y_high
        if writes:
            y_low = conv(_pool(pooled, 2))
            if reads:
                y_low = y_low + conv(_pool(low, stride))
            y = torch.where(_over(out, y_high) > 0, _double(y_low), y_high)
        y = y if layer.bias is None else y + _over(layer.bias, y)
        y.low = out
        return y


def _low(x: Tensor) -> Tensor:
    return getattr(x, "low", torch.zeros(x.shape[1]))


def _without_groups(layer: Any, octave: Any) -> Tensor:
    """The weight with zeros between the groups, which each of the four paths has for itself."""
    weight = torch.zeros(layer.out_channels, layer.in_channels, *layer.kernel_size)
    groups, row = layer.groups, 0
    for rows in (octave.out_high // groups, octave.out_low // groups):
        for group in range(groups):
            column = taken = 0
            for columns in (octave.in_high // groups, octave.in_low // groups):
                first = column + group * columns
                part = layer.weight[row : row + rows, taken : taken + columns]
                weight[row : row + rows, first : first + columns] = part
                column, taken = column + groups * columns, taken + columns
            row += rows
    return weight


def _over(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def _pool(x: Tensor, by: int) -> Tensor:
    if by == 1:
        return x
    return F.avg_pool2d(x, 2) if x.dim() == 4 else F.avg_pool3d(x, (1, 2, 2))


def _half(x: Tensor) -> Tensor:
    return x[..., ::2, ::2]


def _double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_is_equation_4_on_the_vanilla_network(network: Network) -> None:
    """Also: at alpha 0 the network is bit-identical."""
    plain = octavize(network.vanilla, 0, example_input=network.usual)
    with torch.no_grad():
        assert torch.equal(plain(_copied(network.small)), network.vanilla(_copied(network.small)))
        y = network.octave(_copied(network.small))
        expected = _Reference(network.vanilla, network.octave).run(_copied(network.small))
        vanilla = plain(_copied(network.small))
    scale = expected.std()
    torch.testing.assert_close(y / scale, expected / scale, rtol=1e-3, atol=1e-3)
    assert (y - vanilla).abs().max() > 0.02 * scale  # it is another function than the vanilla one


def _copied(inputs: Any) -> Any:
    return pytree.tree_map(lambda x: x, inputs)  # SlowFast writes into the list that it is given


def test_pairs_flow(network: Network) -> None:
    """Seen from the outputs of the layers, so that merging everywhere cannot pass."""
    flows: dict[str, bool] = {}
    attention: set[str] = set()
    hooks = []
    for name, layer in network.octave.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):

            def note(_: Any, inputs: Any, y: Any, name: str = name) -> None:
                flows[name] = any(
                    isinstance(x, OctaveTensor) and x.low is not None and x.high is not None for x in (inputs[0], y)
                )
                if isinstance(y, Tensor) and set(y.shape[-2:]) == {1}:
                    attention.add(name)

            hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        network.octave(_copied(network.small))
    for hook in hooks:
        hook.remove()
    convolutions = [name for name in flows if name not in attention]
    assert sum(flows[name] for name in convolutions) >= CASES[network.name].share * len(convolutions)
    merges = [row.name for row in network.octave.octave_report if row.kind == "merge"]
    # The average-pool of the shortcut that leaves the octave stages.
    assert len(merges) == (1 if network.name == "resnet26d" else 0), merges


def test_costs_less_with_alpha(network: Network) -> None:
    meta = copy.deepcopy(network.vanilla).to("meta")
    rows = network.octave.octave_report
    half = octavize(meta, 0.5, example_input=network.usual).octave_report
    assert sum(row.before for row in rows) > sum(row.after for row in rows) > sum(row.after for row in half)


def test_trains(network: Network) -> None:
    """Last: it changes the statistics of the norms."""
    twin = network.octave.train()
    inputs = pytree.tree_map(lambda x: torch.cat([x, x.flip(-1)])[..., :48, :48], network.small)
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    twin(_copied(inputs)).square().sum().backward()
    missing = [name for name, parameter in twin.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad.isfinite().all() for parameter in twin.parameters())
    stale = [
        name for name, buffer in twin.named_buffers() if name.endswith("mean") and torch.equal(buffer, before[name])
    ]
    assert not stale
    assert all(parameter.grad is None for parameter in network.vanilla.parameters())
    odd = pytree.tree_map(lambda x: x[..., :51, :43], network.small)
    with torch.no_grad():
        assert twin.eval()(odd).isfinite().all()
