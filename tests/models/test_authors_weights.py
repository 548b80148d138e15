"""The authors' MXNet networks: written here layer by layer under their names, four kernels and two norms per layer."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mxnet_file import params
from torch import Tensor, nn

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights
from octvideo.models.image.densenet import create_densenet
from octvideo.models.image.mobilenet import create_mobilenet_v1, create_mobilenet_v2
from octvideo.models.image.resnet import create_image_resnet
from octvideo.models.insertion import Octave

Pair = tuple[Tensor, Tensor | None]
DEPTHS = (1, 2, 2, 1)
NAMES: dict[str, dict[str, str]] = {
    "gluon": {
        "block": "L{stage}_B{index}",
        "conv": "{block}.conv{n}.conv_{path}.",
        "norm": "{block}.bn{n}.bn_{group}.",
        "stem": "conv1.0. conv1.1.",
        "deep": "conv1.0. conv1.1. conv1.3. conv1.4. conv1.6. conv1.7.",
        "little": "conv2.{part}{n}.",
        "halving": "conv2.0. conv2.1.",
        "tail": "tail.0.",
        "mobile tail": "tail.0. tail.1.",
        "head": "classifer.",
        "stats": "running",
    },
    "layers": {
        "block": "R50_L{stage}_B{index}",
        "conv": "{block}_conv{n}-{path}_",
        "norm": "{block}_bn{n}-{group}_",
        "stem": "R50_conv1_ R50_bn1_",
        "deep": " ".join(f"R50_stem_{part}{n}_" for n in (1, 2, 3) for part in ("conv", "bn")),
        "little": "R50_stem2_{part}{n}_",
        "halving": "R50_conv2_ R50_bn2_",
        "tail": "R50_tail-bn_",
        "mobile tail": "R50_tail-conv_ R50_tail-bn_",
        "head": "R50_classifier_",
        "stats": "running",
    },
    "symbols": {
        "block": "L{stage2}_B{number:02d}",
        "conv": "{block}_conv{n}_conv-{path}_",
        "norm": "{block}_conv{n}_bn-{group}_",
        "stem": "conv1_conv_ conv1_bn_",
        "tail": "tail_bn_",
        "head": "classifier_",
        "stats": "moving",
    },
}


class Peer:
    """A network's operations; its arrays come into being, at random, where they are first used."""

    def __init__(self, form: str, alpha: float) -> None:
        self.form, self.alpha, self.names = form, alpha, NAMES[form]
        self.arrays: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)

    def array(self, name: str, *shape: int) -> Tensor:
        if name not in self.arrays:
            if name.endswith(("_var", "gamma")):
                value = self.random.uniform(0.5, 1.5, shape)
            else:
                value = self.random.normal(0, 0.1 if len(shape) == 1 else (5 / np.prod(shape[1:])) ** 0.5, shape)
            self.arrays[name] = value.astype(np.float32)
        return torch.from_numpy(self.arrays[name])

    def widths(self, channels: int, alpha: float) -> tuple[int, int]:
        return channels - int(alpha * channels), int(alpha * channels)

    def block(self, stage: int, index: int) -> str:
        return self.names["block"].format(stage=stage, index=index, stage2=stage + 1, number=index + 1)

    def plain(self, prefix: str, x: Tensor, out: int, kernel: int, stride: int) -> Tensor:
        return F.conv2d(x, self.array(f"{prefix}weight", out, x.shape[1], kernel, kernel), None, stride, kernel // 2)

    def plain_norm(self, prefix: str, x: Tensor, *, fixed: bool = False) -> Tensor:
        gamma, beta = (self.array(f"{prefix}{name}", x.shape[1]) for name in ("gamma", "beta"))
        if fixed:
            self.arrays[f"{prefix}beta"][:] = 0
            gamma = torch.ones_like(gamma)
        mean, var = (self.array(f"{prefix}{self.names['stats']}_{name}", x.shape[1]) for name in ("mean", "var"))
        return F.batch_norm(x, mean, var, gamma, beta, eps=1e-4 if self.form == "symbols" else 1e-5)

    def conv(
        self, block: str, n: str, x: Pair, out: tuple[int, int], kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> Pair:
        y: dict[str, Tensor] = {}
        for source, group in zip("hl", x):
            for target, width in zip("hl", out):
                if group is None or not width or (groups == -1 and source != target):
                    continue
                z, path = group, f"{source}2{target}"
                for _ in range((stride == 2 and path != "l2h") + (path == "h2l")):
                    z = F.avg_pool2d(z, 2)
                parts = z.shape[1] if groups == -1 else groups
                name = self.names["conv"].format(block=block, n=n, path=path) + "weight"
                kernels = self.array(name, width, z.shape[1] // parts, kernel, kernel)
                z = F.conv2d(z, kernels, padding=kernel // 2, groups=parts)
                if path == "l2h" and stride == 1:
                    z = F.interpolate(z, scale_factor=2)
                y[target] = y[target] + z if target in y else z
        return y["h"], y.get("l")

    def norm(self, block: str, n: str, x: Pair, *, fixed: bool = False) -> Pair:
        names = [self.names["norm"].format(block=block, n=n, group=group) for group in "hl"]
        high, low = (None if g is None else self.plain_norm(name, g, fixed=fixed) for name, g in zip(names, x))
        assert high is not None
        return high, low

    def se(self, block: str, x: Pair) -> Pair:
        means = [g.mean((2, 3)) for g in x if g is not None]
        widths = [mean.shape[1] for mean in means]
        reduced, outs = sum(widths) // 16, []
        if self.form == "symbols":
            name = f"{block}_se_fc"
            y = sum(
                m @ self.array(f"{name}1-{g}2h_weight", reduced, w).T for g, m, w in zip("hl", means, widths)
            ) + self.array(f"{name}1-h2h_bias", reduced)
            for g, width in zip("hl", widths):
                outs.append((f"{name}2-h2{g}_", (width, reduced)))
        else:
            first, second = {
                "gluon": (f"{block}.se_block.conv1.", f"{block}.se_block.conv2_{{}}."),
                "layers": (f"{block}_se-conv1_", f"{block}_se-conv2-{{}}_"),
            }[self.form]
            kernel = self.array(f"{first}weight", reduced, sum(widths), 1, 1)[:, :, 0, 0]
            y = torch.cat(means, 1) @ kernel.T + self.array(f"{first}bias", reduced)
            for g, width in zip("hl", widths):
                outs.append((second.format(g), (width, reduced, 1, 1)))
        y = y.relu()
        gates = [
            y @ self.array(f"{name}weight", *shape).flatten(1).T + self.array(f"{name}bias", shape[0])
            for name, shape in outs
        ]
        high, low = x
        return high * gates[0].sigmoid()[..., None, None], (
            None if low is None else low * gates[1].sigmoid()[..., None, None]
        )

    def head(self, x: Tensor) -> Tensor:
        name, width = self.names["head"], x.shape[1]
        weight = self.array(f"{name}weight", 10, width, *(() if self.form == "symbols" else (1, 1)))
        return x @ weight.flatten(1).T + self.array(f"{name}bias", 10)


def relu(x: Pair, most: float = float("inf")) -> Pair:
    return x[0].clamp(0, most), None if x[1] is None else x[1].clamp(0, most)


def add(x: Pair, y: Pair) -> Pair:
    return x[0] + y[0], None if x[1] is None or y[1] is None else x[1] + y[1]


def halved(peer: Peer, x: Tensor, down: str) -> Tensor:
    """The stem's map: pooled, or as bL-Net does by a convolution or by a residual block."""
    if down == "pool":
        return F.max_pool2d(x, 3, 2, 1)
    if down == "conv":
        conv, bn = peer.names["halving"].split()
        return peer.plain_norm(bn, peer.plain(conv, x, x.shape[1], 3, 2)).relu()

    def layer(n: int, y: Tensor, width: int, kernel: int, stride: int) -> Tensor:
        conv, bn = (peer.names["little"].format(part=part, n=n) for part in ("conv", "bn"))
        return peer.plain_norm(bn, peer.plain(conv, y, width, kernel, stride))

    y = layer(2, layer(1, x, 8, 1, 1).relu(), 8, 3, 2).relu()
    return (layer(3, y, 16, 1, 1) + layer(4, x, 16, 1, 2)).relu()


def resnet(
    peer: Peer, x: Tensor, *, pre: bool, se: bool = False, groups: int = 1, widen: int = 1, deep: bool = False,
    down: str = "pool", down_on: int = 2, input_norm: bool = False,
) -> Tensor:  # fmt: skip
    if deep:
        names, y = peer.names["deep"].split(), x
        strides = (2, 1, 1) if down == "pool" else (1, 2, 1)
        for conv, bn, width, stride in zip(names[::2], names[1::2], (8, 8, 16), strides):
            y = peer.plain_norm(bn, peer.plain(conv, y, width, 3, stride)).relu()
    else:
        conv, bn = peer.names["stem"].split()
        y = peer.plain_norm(bn, peer.plain(conv, x, 16, 7, 2)).relu()
    pair: Pair = halved(peer, y, down), None
    for stage, depth in enumerate(DEPTHS, 1):
        alpha = peer.alpha if stage < 4 else 0.0
        mid = peer.widths(16 * widen * 2 ** (stage - 1), alpha)
        out = peer.widths(64 * 2 ** (stage - 1), alpha)
        for index in range(depth):
            block, first = peer.block(stage, index), index == 0
            z, shortcut = pair, pair
            if input_norm:
                z = peer.norm(block, "1a", pair, fixed=True)
            for n, width, kernel in ((1, mid, 1), (2, mid, 3), (3, out, 1)):
                stride = 2 if first and stage > 1 and n == down_on else 1
                z = relu(peer.norm(block, str(n), z)) if pre else z
                z = peer.conv(block, str(n), z, width, kernel, stride, groups if n == 2 else 1)
                z = z if pre else peer.norm(block, str(n), z)
                z = relu(z) if not pre and n < 3 else z
            z = peer.se(block, z) if se else z
            if first:
                stride = 2 if stage > 1 else 1
                if pre:
                    shortcut = peer.conv(block, "4", relu(peer.norm(block, "4", pair)), out, 1, stride)
                else:
                    if input_norm:
                        shortcut = peer.norm(block, "4a", pair, fixed=True)
                        for key in [key for key in peer.arrays if "bn4a" in key]:
                            peer.arrays[key] = peer.arrays[key.replace("bn4a", "bn1a")]
                        shortcut = peer.norm(block, "4a", pair, fixed=True)
                    shortcut = peer.norm(block, "4", peer.conv(block, "4", shortcut, out, 1, stride))
            pair = add(z, shortcut)
            pair = pair if pre else relu(pair)
    y = peer.plain_norm(peer.names["tail"], pair[0]).relu() if pre else pair[0]
    return peer.head(y.mean((2, 3)))


def mobilenet_v1(peer: Peer, x: Tensor) -> Tensor:
    conv, bn = peer.names["stem"].split()
    pair: Pair = peer.plain_norm(bn, peer.plain(conv, x, 8, 3, 2)).relu(), None
    stage, index, width = 1, 0, (8, 0)
    outs = [16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    for count, (out, stride) in enumerate(zip(outs, [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1])):
        stage, index = (stage + 1, 0) if stride == 2 else (stage, index + 1)
        block = peer.block(stage, index)
        pair = relu(peer.norm(block, "1", peer.conv(block, "1", pair, width, 3, stride, -1)))
        width = peer.widths(out, peer.alpha if count < 10 else 0.0)
        pair = relu(peer.norm(block, "2", peer.conv(block, "2", pair, width)))
    return peer.head(pair[0].mean((2, 3)))


def mobilenet_v2(peer: Peer, x: Tensor) -> Tensor:
    conv, bn = peer.names["stem"].split()
    pair: Pair = peer.plain_norm(bn, peer.plain(conv, x, 8, 3, 2)).clamp(0, 6), None
    stage, index = 1, 0
    outs = [4, 6, 6, 8, 8, 8, *[16] * 4, *[24] * 3, *[40] * 3, 80]
    for count, (out, stride) in enumerate(zip(outs, [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1])):
        stage, index = (stage + 1, 0) if stride == 2 else (stage, index + 1)
        block, width = peer.block(stage, index), pair[0].shape[1]
        mid = peer.widths(width * (6 if count else 1), peer.alpha if count < 13 else 0.0)
        z = relu(peer.norm(block, "1", peer.conv(block, "1", pair, mid)), 6)
        z = relu(peer.norm(block, "2", peer.conv(block, "2", z, mid, 3, stride, -1)), 6)
        z = peer.norm(block, "3", peer.conv(block, "3", z, (out, 0)))
        pair = add(z, pair) if stride == 1 and width == out else z
    conv, bn = peer.names["mobile tail"].split()
    return peer.head(peer.plain_norm(bn, peer.plain(conv, pair[0], 1280, 1, 1)).clamp(0, 6).mean((2, 3)))


def densenet(peer: Peer, x: Tensor) -> Tensor:
    conv, bn = peer.names["stem"].split()
    pair: Pair = F.max_pool2d(peer.plain_norm(bn, peer.plain(conv, x, 16, 7, 2)).relu(), 3, 2, 1), None
    width = 16
    for stage in range(1, 5):
        alpha = peer.alpha if stage < 4 else 0.0
        if stage > 1:
            width //= 2
            block = f"L{stage + 1}_Trans"
            pair = peer.conv(block, "", relu(peer.norm(block, "", pair)), peer.widths(width, alpha))
            pair = F.avg_pool2d(pair[0], 2), None if pair[1] is None else F.avg_pool2d(pair[1], 2)
        for index in range(2):
            block = peer.block(stage, index)
            z = peer.conv(block, "1", relu(peer.norm(block, "1", pair)), peer.widths(32, alpha))
            z = peer.conv(block, "2", relu(peer.norm(block, "2", z)), peer.widths(8, alpha), 3)
            high, low = ([g for g in groups if g is not None] for groups in zip(pair, z))
            pair, width = (torch.cat(high, 1), torch.cat(low, 1) if low else None), width + 8
    return peer.head(peer.plain_norm(peer.names["tail"], pair[0]).relu().mean((2, 3)))


def ours(alpha: float, **arguments: object) -> nn.Module:
    octave = Octave(alpha, pool_vanilla=True)
    return create_image_resnet(octave, blocks=DEPTHS, width=16, classes=10, **arguments).eval()  # type: ignore


Case = tuple[str, float, Callable[[Peer, Tensor], Tensor], Callable[[float], nn.Module]]
DEEP = ((8, 3, 2), (8, 3, 1), (16, 3, 1))
DEEP_1 = ((8, 3, 1), (8, 3, 2), (16, 3, 1))
CASES: dict[str, Case] = {
    "pre-activation": (
        "symbols", 0.125, lambda p, x: resnet(p, x, pre=True), lambda a: ours(a, preactivation=True)
    ),
    "pre-activation, SE": (
        "symbols", 0.25, lambda p, x: resnet(p, x, pre=True, se=True), lambda a: ours(a, preactivation=True, se=True)
    ),
    "pre-activation, groups": (
        "symbols", 0.75, lambda p, x: resnet(p, x, pre=True, groups=8, widen=2),
        lambda a: ours(a, preactivation=True, groups=8, widen=2),
    ),
    "densenet": (
        "symbols", 0.25, densenet,
        lambda a: create_densenet(Octave(a, pool_vanilla=True), blocks=(2, 2, 2, 2), width=16, growth=8, classes=10),
    ),
    "v1b": ("gluon", 0.5, lambda p, x: resnet(p, x, pre=False), lambda a: ours(a)),
    "v1e": (
        "gluon", 0.125, lambda p, x: resnet(p, x, pre=False, se=True, deep=True, down_on=3, input_norm=True),
        lambda a: ours(a, se=True, stem=DEEP, stride_on=3, input_norm=True),
    ),
    "v1e, names of layers": (
        "layers", 0.125, lambda p, x: resnet(p, x, pre=False, se=True, deep=True, down_on=3, input_norm=True),
        lambda a: ours(a, se=True, stem=DEEP, stride_on=3, input_norm=True),
    ),
    "v1f": (
        "gluon", 0.125, lambda p, x: resnet(p, x, pre=False, deep=True, down="block", down_on=3),
        lambda a: ours(a, stem=DEEP_1, stem_down="block", stride_on=3),
    ),
    "v1f, names of layers": (
        "layers", 0.125, lambda p, x: resnet(p, x, pre=False, deep=True, down="block", down_on=3),
        lambda a: ours(a, stem=DEEP_1, stem_down="block", stride_on=3),
    ),
    "bL stem": (
        "gluon", 0.5, lambda p, x: resnet(p, x, pre=False, down="conv"), lambda a: ours(a, stem_down="conv")
    ),
    "bL stem, names of layers": (
        "layers", 0.5, lambda p, x: resnet(p, x, pre=False, deep=True, down="conv"),
        lambda a: ours(a, stem=DEEP_1, stem_down="conv"),
    ),
    "mobilenet v1": (
        "gluon", 0.375, mobilenet_v1,
        lambda a: create_mobilenet_v1(Octave(a, pool_vanilla=True), multiplier=0.25, classes=10),
    ),
    "mobilenet v2": (
        "gluon", 0.5, mobilenet_v2,
        lambda a: create_mobilenet_v2(Octave(a, pool_vanilla=True), multiplier=0.25, expand_first=True, classes=10),
    ),
    "mobilenet v2, names of layers": (
        "layers", 0.5, mobilenet_v2,
        lambda a: create_mobilenet_v2(Octave(a, pool_vanilla=True), multiplier=0.25, expand_first=True, classes=10),
    ),
}  # fmt: skip


def written(name: str, folder: Path, alpha: float | None = None) -> tuple[Path, Tensor, Tensor]:
    """A file of one of the networks, and logits of images."""
    form, own_alpha, network, _ = CASES[name]
    peer = Peer(form, own_alpha if alpha is None else alpha)
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 64, 64)).astype(np.float32))
    logits = network(peer, images)
    file = folder / "net.params"
    exported = form != "gluon"
    file.write_bytes(
        params({(("aux:" if "ing_" in key else "arg:") if exported else "") + key: v for key, v in peer.arrays.items()})
    )
    return file, images, logits


@pytest.mark.parametrize("name", CASES)
def test_authors_weights_give_equal_logits(name: str, tmp_path: Path) -> None:
    file, images, expected = written(name, tmp_path)
    _, alpha, _, create = CASES[name]
    network = create(alpha).eval()
    report = load_weights(network, file, strict=True)
    assert re.search(rf"by the names of the authors' .*alpha {alpha:g}", str(report)) and "pools" not in str(report)
    with torch.inference_mode():
        logits = network(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2, "the images make no difference"
    assert torch.allclose(logits, expected, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
def test_v1b_loads_into_a_video_network(arch: str, tmp_path: Path) -> None:
    file, images, expected = written("v1b", tmp_path)
    small = "MODEL.NUM_CLASSES 10 MODEL.BLOCKS [1,2,2,1] MODEL.WIDTH 16 DATA.TRAIN_CROP 64 OCTAVE.ALPHA 0.5".split()
    network = build_model(load_cfg(None, [*small, "OCTAVE.POOL_LEAVING", "True", "MODEL.ARCH", arch])).eval()
    report = load_weights(network, file, strict=True, inflation="centre")
    assert "post-activation ResNet of [1, 2, 2, 1] blocks" in str(report) and not report.notes
    with torch.inference_mode():
        logits = network(images.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    assert torch.allclose(logits, expected, atol=1e-5 * expected.abs().max().item())


def test_tar_archive_is_read(tmp_path: Path) -> None:
    file, images, expected = written("pre-activation", tmp_path)
    symbol = tmp_path / "net-symbol.json"
    symbol.write_text("{}")
    archive = tmp_path / "a00_resnet_alpha-0.125.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(symbol, "resnet/net-symbol.json")
        tar.add(file, "resnet/net-0000.params")
    network = CASES["pre-activation"][3](0.125).eval()
    load_weights(network, archive, strict=True)
    with torch.inference_mode():
        assert torch.allclose(network(images), expected, atol=1e-5 * expected.abs().max().item())
    with tarfile.open(archive, "a") as tar:
        tar.add(file, "resnet/net-0001.params")
    with pytest.raises(UserError, match=r"0\.125\.tar: .*it has 2 .params files; unpack it"):
        load_weights(network, archive)


def test_report_names_differences(tmp_path: Path) -> None:
    file, *_ = written("pre-activation", tmp_path)
    network = create_image_resnet(Octave(0.125), blocks=DEPTHS, width=16, classes=7, preactivation=True)
    report = str(load_weights(network, file))
    assert "OCTAVE.POOL_VANILLA True for the same" in report, "layer4 strides"
    assert "9e-5 added to the variances" in report
    assert "the head is new: the file has 10 classes, the network 7" in report


def test_other_network_is_refused_unchanged(tmp_path: Path) -> None:
    file, *_ = written("pre-activation", tmp_path)
    pre = dict(preactivation=True)
    video = "MODEL.NUM_CLASSES 10 MODEL.BLOCKS [1,2,2,1] MODEL.WIDTH 16 MODEL.ARCH c2d OCTAVE.ALPHA 0.125".split()
    for network, reason in (
        (ours(0.25, **pre), r"layer1\.0\.conv1\.weight has 16 high .* -> 14 high \+ 2 low, the network .*12 high"),
        (ours(0.0, **pre), r"set OCTAVE\.ALPHA 0\.125, OCTAVE\.STAGES \[2,3,4\]"),
        (ours(0.125), r"the authors' pre-activation ResNet of \[1, 2, 2, 1\] blocks, alpha 0\.125: .*layer1\.0"),
        (ours(0.125, se=True, **pre), r"names are in one of the two only \(layer1\.0\.se\.fc1\.weight"),
        (ours(0.125, glore_after=(0,), **pre), r"layer3\.glore0"),
        (ours(0.125, widen=2, **pre), r"layer1\.0\.conv1\.weight has the shape \(16, 16, 1, 1\), the network \(32"),
        (build_model(load_cfg(None, video)), r"the authors' pre-activation ResNet .*docs/checkpoints\.md"),
    ):
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(UserError, match=rf"net\.params: .*{reason}"):
            load_weights(network, file)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_unsupported_parts_are_refused(tmp_path: Path) -> None:
    form, alpha, network, create = CASES["v1e"]
    peer = Peer(form, alpha)
    network(peer, torch.randn(1, 3, 64, 64))
    file = tmp_path / "net.params"
    for name, reason in (
        ("L1_B0.bn1a.bn_h.beta", r"layer1\.0\.bn0\.bias is not 0"),
        ("L1_B0.bn4a.bn_h.running_mean", r"layer1\.0\.bn4a\.running_mean differs from that of bn1a"),
        ("L1_B0.conv4.conv_h2h.bias", r"1 names are in one of the two only \(layer1\.0\.downsample\.0\.bias\)"),
        ("L1_B0.conv5.conv_h2h.weight", r"\(L1_B0\.conv5\.conv_h2h\.weight\)"),
    ):
        one = np.ones(peer.arrays["L1_B0.bn1a.bn_h.beta"].shape, np.float32)
        file.write_bytes(params({**peer.arrays, name: one}))
        with pytest.raises(UserError, match=rf"net\.params: .*{reason}"):
            load_weights(create(alpha), file)
    file.write_bytes(params({"L1_B0.conv1.conv_h2h.weight": np.ones((2, 2, 1, 1), np.float32), "tail.0.gamma": one}))
    with pytest.raises(UserError, match=r"the authors' Gluon DenseNet; its stem is octave"):
        load_weights(create(alpha), file)
