"""The operator against a literal, slow implementation of Eq. 4, and everything the conventions say of it."""

import copy
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from octvideo.octave import (
    AblatedOctConv2d,
    Ablation,
    OctaveTensor,
    OctConv2d,
    OctConv3d,
    add,
    octavize,
    run_as_2d,
    split_channels,
)
from octvideo.octave.functional import convolve_as_2d, downsample, upsample


def pool_literally(x, by_max=False):
    """2x2 pooling by loops over output positions; windows at the border hold what is there."""
    h, w = x.shape[-2:]
    rows = []
    for i in range(-(-h // 2)):
        row = []
        for j in range(-(-w // 2)):
            window = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(-2)
            row.append(window.amax(-1) if by_max else window.mean(-1))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def upsample_literally(x, size):
    rows = torch.arange(size[0]) // 2
    columns = torch.arange(size[1]) // 2
    return x[..., rows, :][..., columns]


def equation_4(conv, high, low):
    """Y^H = f(X^H; HH) + up(f(X^L; LH)), Y^L = f(X^L; LL) + f(pool(X^H); HL), each kernel cut out of the weight."""
    dims = conv.weight.dim() - 2
    function = {2: F.conv2d, 3: F.conv3d}[dims]
    strided = conv.stride[-1] == 2
    stride = (*conv.stride[:-2], 1, 1)
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels
    border = conv.in_high // conv.groups

    def f(x, rows, columns):
        kernel = conv.weight[rows] if depthwise else conv.weight[rows, columns]
        groups = x.shape[1] if depthwise else conv.groups
        return function(x, kernel, None, stride, conv.padding, conv.dilation, groups)

    to_high, to_low = slice(0, conv.out_high), slice(conv.out_high, conv.out_channels)
    from_high, from_low = slice(0, border), slice(border, None)
    y_high, y_low = [], []
    if high is not None:
        x = pool_literally(high) if strided else high
        if conv.out_high:
            y_high.append(f(x, to_high, from_high))
        if conv.out_low and not (depthwise and conv.in_low):
            y_low.append(f(pool_literally(x), to_low, from_high))
    if low is not None:
        x = pool_literally(low) if strided else low
        if conv.out_low:
            y_low.append(f(x, to_low, from_low))
        if conv.out_high and not (depthwise and conv.in_high):
            if strided:
                y_high.append(f(low, to_high, from_low))
            else:
                z = f(low, to_high, from_low)
                size = y_high[0].shape[-2:] if y_high else [2 * edge for edge in z.shape[-2:]]
                y_high.append(upsample_literally(z, size))

    def total(parts, rows):
        if not parts:
            return None
        bias = 0 if conv.bias is None else conv.bias[rows].view(-1, *[1] * dims)
        return sum(parts) + bias

    return total(y_high, to_high), total(y_low, to_low)


def features(channels, alpha, size, frames=None, multiple=1, dtype=torch.float64, **kwargs):
    """A random tensor where alpha is 0, a pair otherwise."""
    time = () if frames is None else (frames,)
    high, low = split_channels(channels, alpha, multiple)
    half = tuple(-(-edge // 2) for edge in size)
    if alpha == 0:
        return torch.randn(2, channels, *time, *size, dtype=dtype, **kwargs)
    return OctaveTensor(
        torch.randn(2, high, *time, *size, dtype=dtype, **kwargs) if high else None,
        torch.randn(2, low, *time, *half, dtype=dtype, **kwargs) if low else None,
    )


def ablated(*args, ablation=("high_to_low", "low_to_high", "pool_strided_low_to_high"), **kwargs):
    taken = {key: kwargs.pop(key) for key in ablation if key in kwargs}
    return AblatedOctConv2d(*args, ablation=Ablation(**taken), **kwargs)


def groups_of(x):
    return tuple(x) if isinstance(x, (tuple, OctaveTensor)) else (x, None)


def assert_same(actual, expected, **tolerance):
    for a, b in zip(groups_of(actual), groups_of(expected)):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


ALPHAS = [0.0, 0.1, 0.25, 0.5, 0.875, 1.0]


@settings(max_examples=120, deadline=None)
@given(
    alpha_in=st.sampled_from(ALPHAS),
    alpha_out=st.sampled_from(ALPHAS),
    stride=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.sampled_from([1, 2]),
    height=st.integers(5, 13),
    width=st.integers(5, 13),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_conv2d_is_equation_4(alpha_in, alpha_out, stride, kernel, dilation, height, width, bias, seed):
    torch.manual_seed(seed)
    padding = dilation * (kernel - 1) // 2
    conv = OctConv2d(
        10,
        12,
        kernel,
        stride,
        padding,
        dilation,
        bias=bias,
        alpha_in=alpha_in,
        alpha_out=alpha_out,
        dtype=torch.float64,
    )
    x = features(10, alpha_in, (height, width))
    y = conv(x)
    assert isinstance(y, OctaveTensor) == (alpha_out > 0)
    if conv.in_low or conv.out_low:
        assert_same(y, equation_4(conv, *groups_of(x)))


@settings(max_examples=60, deadline=None)
@given(
    alpha_in=st.sampled_from(ALPHAS),
    alpha_out=st.sampled_from(ALPHAS),
    stride=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2])),
    kernel=st.sampled_from([(1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 1, 1), (5, 3, 3)]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    frames=st.integers(3, 6),
    as_2d=st.booleans(),
    channels_last=st.booleans(),
)
def test_conv3d_is_equation_4_in_space_alone(alpha_in, alpha_out, stride, kernel, size, frames, as_2d, channels_last):
    padding = tuple(edge // 2 for edge in kernel)
    conv = OctConv3d(
        8,
        8,
        kernel,
        (stride[0], stride[1], stride[1]),
        padding,
        alpha_in=alpha_in,
        alpha_out=alpha_out,
        dtype=torch.float64,
    )
    conv = run_as_2d(conv) if as_2d else conv
    x = features(8, alpha_in, size, frames)
    memory = torch.channels_last_3d if channels_last else torch.contiguous_format
    y = conv(OctaveTensor(*x).to(memory_format=memory) if alpha_in else x.to(memory_format=memory))
    if conv.in_low or conv.out_low:
        assert_same(y, equation_4(conv, *groups_of(x)))


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped(groups, stride):
    conv = OctConv2d(16, 32, 3, stride, 1, groups=groups, alpha_in=0.5, alpha_out=0.25, dtype=torch.float64)
    x = features(16, 0.5, (9, 8))
    assert_same(conv(x), equation_4(conv, *x))
    assert conv.weight.shape == nn.Conv2d(16, 32, 3, groups=groups).weight.shape


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_depthwise_has_no_exchange(alpha, stride):
    conv = OctConv3d(8, 16, (1, 3, 3), (1, stride, stride), (0, 1, 1), groups=8, alpha_in=alpha, alpha_out=alpha)
    conv = conv.double()
    x = features(8, alpha, (7, 8), frames=3)
    y = conv(x)
    assert_same(y, equation_4(conv, *x))
    if x.high is not None:
        torch.testing.assert_close(conv(OctaveTensor(x.high, x.low * 0)).high, y.high)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1)])
def test_alpha_0_is_bit_identical_to_conv3d(kernel, stride):
    padding = tuple(edge // 2 for edge in kernel)
    vanilla = nn.Conv3d(6, 10, kernel, (1, stride, stride), padding, groups=2)
    octave = OctConv3d(6, 10, kernel, (1, stride, stride), padding, groups=2, alpha_in=0, alpha_out=0)
    octave.load_state_dict(vanilla.state_dict())
    x = torch.randn(2, 6, 5, 9, 11)
    assert torch.equal(vanilla(x), octave(x))


def test_alpha_1_has_no_high_group():
    conv = OctConv3d(4, 6, 3, padding=1, alpha_in=1, alpha_out=1)
    y = conv(OctaveTensor(None, torch.randn(1, 4, 3, 5, 5)))
    assert y.high is None and y.low.shape == (1, 6, 3, 5, 5)
    entering = OctConv3d(4, 6, 3, padding=1, alpha_in=0, alpha_out=1)(torch.randn(1, 4, 3, 5, 7))
    assert entering.high is None and entering.low.shape == (1, 6, 3, 3, 4)
    leaving = OctConv3d(4, 6, 3, padding=1, alpha_in=1, alpha_out=0)(OctaveTensor(None, torch.randn(1, 4, 3, 5, 5)))
    assert leaving.shape == (1, 6, 3, 10, 10)


def test_tiny_alpha_leaves_a_group_out():
    y = OctConv2d(8, 8, 3, padding=1, alpha_in=0.1, alpha_out=0.1)(OctaveTensor(torch.randn(1, 8, 6, 6), None))
    assert y.high.shape[1] == 8 and y.low is None


@pytest.mark.parametrize(("alpha_in", "alpha_out"), [(0, 0.5), (0.5, 0.5), (0.25, 0.5), (0.5, 0), (1, 1), (0.5, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_in_double_precision(alpha_in, alpha_out, stride):
    conv = OctConv3d(4, 4, 3, (1, stride, stride), 1, alpha_in=alpha_in, alpha_out=alpha_out, dtype=torch.float64)
    x = features(4, alpha_in, (5, 4), frames=2)
    inputs = [group.requires_grad_() for group in groups_of(x) if group is not None]

    def run(*tensors):
        parts = list(tensors[: len(inputs)])
        parameters = dict(zip(("weight", "bias"), tensors[len(inputs) :]))
        rebuilt = OctaveTensor(*(None if g is None else parts.pop(0) for g in x)) if alpha_in else parts[0]
        y = torch.func.functional_call(conv, parameters, (rebuilt,))
        return tuple(group for group in groups_of(y) if group is not None)

    assert torch.autograd.gradcheck(run, (*inputs, conv.weight, conv.bias))


@pytest.mark.parametrize("down", ["max", "conv"])
def test_other_ways_to_down_sample(down):
    torch.manual_seed(0)
    options = dict(alpha_in=0.5, alpha_out=0.5, ablation=Ablation(down=down), dtype=torch.float64)
    conv = AblatedOctConv2d(8, 8, 3, padding=1, **options)
    x = features(8, 0.5, (9, 7))
    y = conv(x)
    w = conv.weight
    if down == "max":
        from_high = F.conv2d(pool_literally(x.high, by_max=True), w[4:, :4], padding=1)
    else:
        from_high = F.conv2d(x.high, w[4:, :4], stride=2, padding=1)
    expected = from_high + F.conv2d(x.low, w[4:, 4:], padding=1) + conv.bias[4:].view(-1, 1, 1)
    torch.testing.assert_close(y.low, expected)
    strided = AblatedOctConv2d(8, 8, 3, 2, 1, **options)(x)
    assert strided.high.shape[-2:] == (5, 4) and strided.low.shape[-2:] == (3, 2)


def test_paths_can_be_switched_off():
    x = features(8, 0.5, (6, 6))
    full = OctConv2d(8, 8, 3, padding=1, alpha_in=0.5, alpha_out=0.5, dtype=torch.float64)
    other = OctaveTensor(x.high + 1, x.low)
    for option, group in ({"high_to_low": False}, "low"), ({"low_to_high": False}, "high"):
        cut = ablated(8, 8, 3, padding=1, alpha_in=0.5, alpha_out=0.5, dtype=torch.float64, **option)
        cut.load_state_dict(full.state_dict())
        own = slice(4, 8) if group == "low" else slice(0, 4)
        expected = F.conv2d(getattr(x, group), full.weight[own, own], full.bias[own], padding=1)
        torch.testing.assert_close(getattr(cut(x), group), expected)
        assert not torch.equal(getattr(full(x), group), expected)
    assert torch.equal(
        ablated(8, 8, 1, alpha_in=0.5, alpha_out=0.5, high_to_low=False, dtype=torch.float64)(x).low.isfinite(),
        torch.ones_like(other.low, dtype=torch.bool),
    )
    # The entry has no other source of low frequencies: the path stays.
    entry = ablated(8, 8, 1, alpha_in=0, alpha_out=0.5, high_to_low=False)(torch.randn(1, 8, 6, 6))
    assert entry.low.shape == (1, 4, 3, 3)
    # The exit has no other way on for them.
    for alpha_out in (0, 0.5):
        last = ablated(8, 8, 1, alpha_in=0.5, alpha_out=alpha_out, low_to_high=False, dtype=torch.float64)
        y = last(OctaveTensor(x.high, x.low + 1)), last(x)
        y = [pair.high if alpha_out else pair for pair in y]
        assert torch.equal(*y) == bool(alpha_out)


def test_pooled_strided_low_to_high():
    conv = ablated(8, 8, 3, 2, 1, alpha_in=0.5, alpha_out=0.5, pool_strided_low_to_high=True, dtype=torch.float64)
    x = features(8, 0.5, (9, 8))
    w, b = conv.weight, conv.bias.view(-1, 1, 1)
    high, low = pool_literally(x.high), pool_literally(x.low)
    y_high = F.conv2d(high, w[:4, :4], padding=1)
    y_high = y_high + upsample_literally(F.conv2d(low, w[:4, 4:], padding=1), y_high.shape[-2:]) + b[:4]
    torch.testing.assert_close(conv(x).high, y_high)


def test_one_weight_of_vanilla_shape_at_every_alpha():
    vanilla = nn.Conv3d(20, 30, (1, 3, 3))
    for alpha in (0.0, 0.1, 0.5, 1.0):
        octave = OctConv3d(20, 30, (1, 3, 3), alpha_in=alpha, alpha_out=alpha)
        assert octave.load_state_dict(vanilla.state_dict())
        assert sum(p.numel() for p in octave.parameters()) == sum(p.numel() for p in vanilla.parameters())


@pytest.mark.parametrize("size", [181, 182, 200, 225, 7])
def test_odd_sizes_survive_a_chain(size):
    size = max(size // 8, 7)
    enter = OctConv2d(3, 8, 3, padding=1, alpha_in=0, alpha_out=0.5)
    middle = [OctConv2d(8, 8, 3, stride, 1, alpha_in=0.5, alpha_out=0.5) for stride in (1, 2, 1, 2)]
    x = enter(torch.randn(1, 3, size, size + 1))
    for conv in middle:
        y = conv(x)
        assert y.low.shape[-2:] == tuple(-(-edge // 2) for edge in y.high.shape[-2:])
        x = y
    assert OctConv2d(8, 8, 1, alpha_in=0.5, alpha_out=0)(x).shape[-2:] == x.high.shape[-2:]


@pytest.mark.parametrize(
    ("channels", "alpha", "multiple", "expected"),
    [
        (64, 0.1, 1, (58, 6)),
        (512, 0.1, 1, (461, 51)),
        (64, 0.1, 8, (56, 8)),
        (64, 0.1, 16, (64, 0)),
        (256, 0.1, 16, (224, 32)),
        (8, 1.0, 16, (0, 8)),
        (8, 0.99, 1, (1, 7)),
        (10, 0.25, 1, (8, 2)),
        (12, 0.9, 8, (4, 8)),
    ],
)
def test_split_channels(channels, alpha, multiple, expected):
    assert split_channels(channels, alpha, multiple) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(alpha_in=1.5, alpha_out=0), "between 0 and 1"),
        (dict(alpha_in=0.5, alpha_out=0.5, stride=3), "must be 1 or 2"),
        (dict(alpha_in=0.2, alpha_out=0.5, groups=4), "must divide"),
        (dict(alpha_in=0.25, alpha_out=0.5, groups=8), "depth-wise"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        OctConv2d(8, 8, 3, **kwargs)
    with pytest.raises(ValueError, match="'avg', 'max' or 'conv'"):
        Ablation(down="mean")


def test_a_feature_of_other_groups_is_refused():
    conv = OctConv2d(8, 8, 3, alpha_in=0.5, alpha_out=0.5)
    with pytest.raises(ValueError, match="4 high and 4 low"):
        conv(torch.randn(1, 8, 5, 5))


class Chain(nn.Module):
    """Enters, stays (with a sum of pairs), leaves."""

    def __init__(self):
        super().__init__()
        self.enter = OctConv3d(4, 8, 1, alpha_in=0, alpha_out=0.5)
        self.stay = OctConv3d(8, 8, (1, 3, 3), padding=(0, 1, 1), alpha_in=0.5, alpha_out=0.5)
        self.leave = OctConv3d(8, 4, 1, alpha_in=0.5, alpha_out=0)

    def forward(self, x):
        y = self.enter(x)
        return self.leave(add(y, self.stay(y)))


class Residual(nn.Module):
    """A vanilla network: a stem, two blocks of which the second leads to the final resolution, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (1, 3, 3), (1, 4, 4), (0, 1, 1))
        self.enter = nn.Sequential(nn.Conv3d(16, 16, 1, bias=False), nn.BatchNorm3d(16))
        self.first = self.block(1)
        self.second = self.block(2)
        self.shortcut = nn.Conv3d(16, 16, 1, (1, 2, 2))
        self.head = nn.Linear(16, 4)

    def block(self, stride):
        convs = [nn.Conv3d(16, 16, (1, 3, 3), step, (0, 1, 1), bias=False) for step in ((1, stride, stride), 1)]
        return nn.Sequential(convs[0], nn.BatchNorm3d(16), nn.ReLU(inplace=True), convs[1], nn.BatchNorm3d(16))

    def forward(self, x):
        x = torch.relu(self.enter(self.stem(x)))
        x = torch.relu(x + self.first(x))
        return self.head(torch.relu(self.shortcut(x) + self.second(x)).mean((2, 3, 4)))


def test_compiles_as_one_graph_and_exports():
    net, x = Chain().eval(), torch.randn(2, 4, 3, 9, 8)
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)
    # A pair as input and output of the graph.
    pair = net.enter(x).detach()
    assert_same(torch.compile(net.stay, fullgraph=True)(pair), net.stay(pair), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "ceil"), [((8, 8), False), ((8, 5), True)])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("frames", [(), (3,)])
def test_exports_pool_and_upsample_in_space(mode, frames, size, ceil):
    class Halve(nn.Module):
        def forward(self, x):
            low = downsample(x, mode)
            return low, upsample(low, x.shape[-2:])

    x = torch.randn(2, 4, *frames, *size)
    program = torch.export.export(Halve(), (x,))
    pool, up = [node for node in program.graph.nodes if re.search("pool|upsample", str(node.target))]
    dims = "3d" if frames else "2d"
    assert dims in str(pool.target) and dims in str(up.target)
    assert any(argument is True for argument in pool.args[4:]) == ceil
    torch.testing.assert_close(program.module()(x), Halve()(x))


@pytest.mark.full
@pytest.mark.parametrize("name", ["layers", "octavized"])
def test_inductor_compiles_the_gradient(name):
    """A real compilation, which needs a C++ compiler: without one this fails. Run as in a training on a CPU."""
    torch.manual_seed(0)
    net, x = Chain(), torch.randn(2, 3, 8, 8, 4).permute(0, 4, 1, 2, 3)
    if name == "octavized":  # its layers, between a stem and a last stage
        x = torch.randn(2, 3, 32, 32, 3).permute(0, 4, 1, 2, 3)
        net = octavize(Residual(), 0.25, example_input=torch.empty(2, 3, 3, 32, 32))
        assert len(net.octave_plan.convs) == 5 and len(net.octave_plan.norms) == 3
    net = run_as_2d(net.train())
    found = []
    for network in net, torch.compile(net, fullgraph=True):
        net.zero_grad()
        network(x).square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters()])
    assert max(gradient.abs().max() for gradient in found[0]) > 0.1
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)


def test_autocast_deepcopy_pickle_channels_last_checkpointing():
    net, x = Chain(), torch.randn(2, 4, 3, 8, 8)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        low_precision = net(x)
    assert low_precision.dtype == torch.bfloat16
    torch.testing.assert_close(low_precision.float(), expected, atol=0.05, rtol=0.1)
    for twin in copy.deepcopy(net), pickle.loads(pickle.dumps(net)):
        assert torch.equal(twin(x), expected)
    last = net.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-4)
    assert net.stay(net.enter(x.to(memory_format=torch.channels_last_3d))).low.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    from torch.utils.checkpoint import checkpoint

    pair = net.enter(x)
    again = checkpoint(net.stay, pair, use_reentrant=False)
    assert isinstance(again, OctaveTensor) and torch.equal(again.low, net.stay(pair).low)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(*[st.sampled_from([1, 2, 3])] * 3),
    stride=st.tuples(*[st.sampled_from([1, 2])] * 3),
    padding=st.tuples(*[st.sampled_from([0, 1])] * 3),
    dilation=st.tuples(*[st.sampled_from([1, 2])] * 3),
    groups=st.sampled_from([1, 2]),
)
def test_convolve_as_2d_is_conv3d(kernel, stride, padding, dilation, groups):
    x = torch.randn(2, 4, 7, 8, 9, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(6, 4 // groups, *kernel, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    arguments = (stride, padding, dilation, groups)
    torch.testing.assert_close(convolve_as_2d(x, weight, bias, *arguments), torch.conv3d(x, weight, bias, *arguments))


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["avg", "max"]))
@settings(deadline=None)
def test_pooling_and_upsampling(height, width, mode):
    x = torch.randn(1, 2, 3, height, width, dtype=torch.float64)
    y = downsample(x, mode)
    torch.testing.assert_close(y, pool_literally(x, by_max=mode == "max"))
    torch.testing.assert_close(upsample(y, (height, width)), upsample_literally(y, (height, width)))
    last = x.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(downsample(last, mode), y)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 2)])
def test_exported_pooling_takes_any_size(mode, size):
    class Pool(nn.Module):
        def forward(self, x):
            return downsample(x, mode)

    x = torch.randn(2, 3, 4, *size)
    exported = torch.export.export(Pool(), (x,)).module()
    torch.testing.assert_close(exported(x), downsample(x, mode))


def test_strided_gradient_keeps_memory_intact():
    """In a process of its own, which the gradient of torch's own convolution would end."""
    code = """
import torch
from octvideo.octave.functional import convolve
torch.set_num_threads(1)
for channels in (2, 3, 6) * 10:
    x = torch.randn(2, channels, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.randn(8, channels, 1, 1, 1, requires_grad=True)
    arguments = (None, (1, 2, 2), (0, 0, 0), (1, 1, 1), 1)
    y = convolve(x, weight, *arguments, as_2d=True)
    torch.testing.assert_close(y, torch.conv3d(x, weight, *arguments))
    y.backward(torch.randn_like(y))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MALLOC_CHECK_": "3"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 3), (1, 1, 1)])
def test_convolve_as_2d_keeps_the_memory_format(kernel, clips):
    weight, padding = torch.randn(6, 4, *kernel), [size // 2 for size in kernel]
    x = torch.randn(clips, 4, 3, 6, 5)
    contiguous = convolve_as_2d(x, weight, None, (1, 1, 1), padding, (1, 1, 1), 1)
    # As the loader gives clips.
    last = x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    y = convolve_as_2d(last, weight, None, (1, 1, 1), padding, (1, 1, 1), 1)
    assert y.permute(0, 2, 3, 4, 1).is_contiguous()
    torch.testing.assert_close(y, contiguous)
