"""Octavize networks of torchvision, timm and PyTorchVideo: prints the figures of docs/octavize.md.

    python benchmarks/octavize_table.py [--alpha 0.25] [--further] [NAME ...]

The networks are on the meta device, so nothing is computed. A convolution that reads or writes a pair counts as octave,
also in squeeze-and-excitation. Pairs are merged by convolutions that read a pair and write a tensor, and, in brackets,
before modules that cannot take a pair.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision.models
from pytorchvideo.models import hub
from torch import nn

from octvideo.octave import octavize

IMAGE = (3, 224, 224)


def _tv(name: str) -> nn.Module:
    backbone = {"weights_backbone": None} if name.startswith("fcn") else {}
    return torchvision.models.get_model(name, weights=None, **backbone)


def _hub(name: str) -> nn.Module:
    return getattr(hub, name)(pretrained=False)


# Library, network, its builder, the shape of its input.
NETWORKS: list[tuple[str, str, Callable[[str], nn.Module], tuple[int, ...]]] = [
    *(
        ("torchvision", name, _tv, IMAGE)
        for name in "resnet50 resnext50_32x4d densenet121 mobilenet_v2 efficientnet_b0 regnet_y_400mf".split()
    ),
    *(("torchvision", name, _tv, (3, 16, 112, 112)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")),
    ("torchvision", "s3d", _tv, (3, 16, 224, 224)),
    *(("PyTorchVideo", name, _hub, (3, 8, 224, 224)) for name in ("c2d_r50", "i3d_r50", "slow_r50")),
    ("PyTorchVideo", "slowfast_r50", _hub, (3, 32, 224, 224)),
    ("PyTorchVideo", "x3d_s", _hub, (3, 13, 160, 160)),
    ("PyTorchVideo", "csn_r101", _hub, (3, 32, 224, 224)),
    ("PyTorchVideo", "r2plus1d_r50", _hub, (3, 16, 224, 224)),
    *(("timm", name, timm.create_model, IMAGE) for name in ("resnet26d", "seresnet50", "resnetv2_50")),
]
# Networks that the tests do not have, from other families.
FURTHER: list[tuple[str, str, Callable[[str], nn.Module], tuple[int, ...]]] = [
    *(
        ("torchvision", name, _tv, IMAGE)
        for name in (
            "googlenet vgg16_bn squeezenet1_1 shufflenet_v2_x1_0 mobilenet_v3_large efficientnet_v2_s convnext_tiny "
            "fcn_resnet50"
        ).split()
    ),
    ("torchvision", "inception_v3", _tv, (3, 299, 299)),
    ("torchvision", "swin3d_t", _tv, (3, 8, 224, 224)),
    ("PyTorchVideo", "mvit_base_16x4", _hub, (3, 16, 224, 224)),
    *(
        ("timm", name, timm.create_model, IMAGE)
        for name in (
            "res2net50_26w_4s resnest26d dpn68 hrnet_w18 ese_vovnet19b_dw rexnet_100 cspresnet50 repvgg_a2 nfnet_l0"
        ).split()
    ),
]


def main() -> None:
    """Print one line per network, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these networks")
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--further", action="store_true", help="the networks that the tests do not have")
    args = parser.parse_args()
    print("| library | network | input | G multiply-adds | octave | | convolutions octave | merged by |")
    print("|---|---|---|---|---|---|---|---|")
    for library, name, build, shape in FURTHER if args.further else NETWORKS:
        if not args.names or name in args.names:
            model = build(name).to("meta")
            x: Any = torch.empty(1, *shape, device="meta")
            report: Any = octavize(model, args.alpha, example_input=[x[:, :, ::4], x] if "slowfast" in name else x)
            print(f"| {library} | {name} | {'x'.join(map(str, shape[1:]))} | {_columns(report.octave_report)} |")


def _columns(rows: list[Any]) -> str:
    before, after = (sum(getattr(row, key) for row in rows) / 1e9 for key in ("before", "after"))
    convolutions = [row for row in rows if "Conv" in row.kind]
    octave = sum(row.alpha_in > 0 or row.alpha_out > 0 for row in convolutions)
    merges = [row.name for row in convolutions if row.alpha_in > 0 and row.alpha_out == 0]
    merges = [*merges[:2], f"{len(merges) - 3} more", merges[-1]] if len(merges) > 4 else merges
    merges += [f"({row.name})" for row in rows if row.kind == "merge"]
    share = f"{octave} of {len(convolutions)}"
    return f"{before:.3f} | {after:.3f} | {after / before - 1:+.0%} | {share} | {', '.join(merges)}"


if __name__ == "__main__":
    main()
