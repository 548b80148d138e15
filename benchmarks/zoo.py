#!/usr/bin/env python
"""Write docs/zoo.md: each configuration with its cost, its accuracy and the weights it can start from.

    python benchmarks/zoo.py [--page FILE]

Costs are those of `tools/complexity.py`. The networks are on the meta device, so nothing is computed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchvision.models import ResNet50_Weights

from octvideo.config import load_cfg
from octvideo.models import build_model
from octvideo.octave.complexity import count

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "zoo.md"

# Top-1 that the paper prints: "Drop an Octave", arXiv 1904.05049v3. Video: Table 6, 30 views (a: Kinetics-400, b:
# Kinetics-600); ImageNet: Tables 2, 3, 5 and 9, one crop.
PAPER = {
    "kinetics400/c2d_k400": "71.9 from ImageNet (6a)",
    "kinetics400/oct_c2d_k400": "73.8 from ImageNet (6a)",
    "kinetics400/i3d_k400": "72.6; 73.3 from ImageNet (6a)",
    "kinetics400/oct_i3d_k400": "73.6; 74.6 from ImageNet (6a)",
    "kinetics400/i3d_nln_k400": "74.7 from ImageNet (6a)",
    "kinetics400/oct_i3d_nln_k400": "75.7 from ImageNet (6a)",
    "kinetics400/slowfast_k400": "75.6 (6a)",
    "kinetics400/oct_slowfast_k400": "76.2 (6a)",
    "kinetics600/i3d_k600": "74.3 from ImageNet (6b)",
    "kinetics600/oct_i3d_k600": "76.0 from ImageNet (6b)",
    "imagenet/resnet50_in1k": "77.0 (2, 9), pre-activation",
    "imagenet/oct_resnet50_in1k": "78.2 (2, 9), pre-activation",
    "imagenet/resnet26_preact_in1k": "73.2 (9)",
    "imagenet/oct_resnet26_preact_in1k": "76.1 (9)",
    "imagenet/resnet50_preact_in1k": "77.0 (9)",
    "imagenet/oct_resnet50_preact_in1k": "77.4 (9)",
    "imagenet/resnet101_preact_in1k": "78.5 (9)",
    "imagenet/oct_resnet101_preact_in1k": "79.2 (9)",
    "imagenet/resnext50_32x4d_preact_in1k": "78.4 (9)",
    "imagenet/oct_resnext50_32x4d_preact_in1k": "78.8 (9)",
    "imagenet/se_resnet50_preact_in1k": "77.6 (9)",
    "imagenet/oct_se_resnet50_preact_in1k": "78.7 (9)",
    "imagenet/densenet121_in1k": "75.4 (9)",
    "imagenet/oct_densenet121_in1k": "76.1 (9)",
    "imagenet/mobilenet_v2_100_in1k": "72.0 (3)",
    "imagenet/oct_mobilenet_v2_100_in1k": "72.0 (3)",
    "imagenet/oct_resnet152_v1f_in1k": "81.4 (5)",
}


def _quickstart(network: str) -> str:
    results = json.loads((ROOT / "benchmarks" / "results" / "time_direction.json").read_text(encoding="utf-8"))
    return f"{results[network]['top1']:.1f} % of {results[network]['num_videos']} clips"


# Top-1 of networks that were trained here, one run each. Weizmann: octvideo/assets/MODEL_CARD.md.
OURS = {
    "weizmann/oct_i3d": "94.4 % of 90 clips (folds 100, 93.3, 90.0)",
    "weizmann/i3d": "not measured",
    "quickstart/oct_i3d": _quickstart("Oct-I3D"),
    "quickstart/oct_c2d": _quickstart("Oct-C2D"),
}

# Heading, folder, command to train and test, text below the heading.
SECTIONS = (
    (
        "Kinetics-400",
        "kinetics400",
        "python tools/run_net.py --cfg CONFIG DATA.TRAIN train.csv DATA.VAL val.csv OUTPUT_DIR output/NAME",
        "30 views.",
    ),
    (
        "Kinetics-600",
        "kinetics600",
        "python tools/run_net.py --cfg CONFIG DATA.TRAIN train.csv DATA.VAL val.csv OUTPUT_DIR output/NAME",
        "30 views. Weights of Kinetics-400 load, with a new head.",
    ),
    (
        "ImageNet",
        "imagenet",
        "python tools/run_net.py --cfg CONFIG DATA.TRAIN train DATA.VAL val OUTPUT_DIR output/NAME",
        "One crop. The paper's ResNet-50 is a pre-activation one, `MODEL.ARCH resnet50_preact` "
        "([image_networks.md](image_networks.md)); these are torchvision's.",
    ),
    (
        "Weizmann",
        "weizmann",
        "python tools/weizmann.py --data DIR --cfg CONFIG",
        "30 views, three folds of three persons; `make weizmann DATA=DIR` is the octave one.",
    ),
    (
        "Quickstart",
        "quickstart",
        "python tools/run_net.py --cfg CONFIG OUTPUT_DIR output/NAME",
        "30 views of rendered actions, which `make quickstart` makes; it also trains Oct-I3D. `python "
        "benchmarks/time_direction.py` trains Oct-C2D too ([time_direction.md](time_direction.md)).",
    ),
)

_PTV = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
_PSF = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/"
_NLN = "https://dl.fbaipublicfiles.com/video-nonlocal/"
_MMA = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/"
_MEAN = "DATA.MEAN [0.485,0.456,0.406] DATA.STD [0.229,0.224,0.225]"


class Weights(NamedTuple):
    """Published weights.

    Attributes:
        source: the project.
        name: of the file or of the network.
        address: of the file (of its folder if it ends in a slash), or of a page that links to it.
        networks: configurations they fit; without ``oct_`` for both twins, without data set for all data sets.
        keys: further keys to set.
        top1: as published: on Kinetics-400, 30 views, or of images on ImageNet, one crop.
    """

    source: str
    name: str
    address: str
    networks: tuple[str, ...]
    keys: str = ""
    top1: str = ""

    def fit(self, config: str) -> bool:
        """Return whether a configuration, such as ``kinetics400/oct_i3d_k400``, can start from them."""
        name = config.split("/")[1].rsplit("_k", 1)[0].removesuffix("_in1k")
        if config.split("/")[0] in ("weizmann", "quickstart"):
            name = config
        return bool({name, name.removeprefix("oct_")} & set(self.networks))


def _torchvision(version: str) -> Weights:
    weights: Any = ResNet50_Weights[f"IMAGENET1K_{version}"]
    top1 = f"{weights.meta['_metrics']['ImageNet-1K']['acc@1']:.2f} (images)"
    return Weights("torchvision", f"ResNet-50 {version}", weights.url, _IMAGE_FITS, _MEAN, top1)


_IMAGE_FITS = ("c2d", "i3d", "i3d_nln", "resnet50")
_4X16 = "MODEL.ARCH slow DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 16"
_AUTHORS = "https://dl.fbaipublicfiles.com/octconv/"
_SYMBOLS = "OCTAVE.POOL_VANILLA True DATA.MEAN [0.4863,0.4588,0.4078] DATA.STD [0.2348,0.2348,0.2348]"
_UNPADDED = "MODEL.STEM_POOL_PADDED False"
_EVERY = "MODEL.SLOWFAST.SLOW_FRAMES every"


def _authors(file: str, network: str, top1: str) -> Weights:
    keys = f"OCTAVE.POOL_VANILLA True {_MEAN}" if file.endswith(".params") else _SYMBOLS
    return Weights("the paper's authors", file, _AUTHORS + file, (f"oct_{network}",), keys, f"{top1} (images)")


# docs/checkpoints.md has what each needs, and how that was checked.
WEIGHTS = (
    Weights("PyTorchVideo", "C2D_8x8_R50.pyth", _PTV, ("c2d",), "", "71.46"),
    Weights("PyTorchVideo", "I3D_8x8_R50.pyth", _PTV, ("i3d",), "", "73.27"),
    Weights("PyTorchVideo", "SLOWFAST_4x16_R50.pyth", _PTV, ("slowfast",), "", "75.34"),
    Weights("PyTorchVideo", "SLOWFAST_8x8_R50.pyth", _PTV, ("slowfast_8x8",), "", "76.94"),
    Weights("PyTorchVideo", "SLOW_4x16_R50.pyth", _PTV, (), _4X16, "72.40"),
    Weights("PyTorchVideo", "SLOW_8x8_R50.pyth", _PTV, (), "MODEL.ARCH slow", "74.58"),
    Weights("PySlowFast", "C2D_NOPOOL_8x8_R50.pkl", _PSF, ("c2d",), "MODEL.TEMPORAL_POOL False", "67.2"),
    Weights("PySlowFast", "I3D_8x8_R50.pkl", _PSF, ("i3d",), "", "73.5"),
    Weights("PySlowFast", "I3D_NLN_8x8_R50.pkl", _PSF, ("i3d_nln",), "", "74.0"),
    Weights("PySlowFast", "SLOWFAST_4x16_R50.pkl", _PSF, ("slowfast",), "", "75.6"),
    Weights("PySlowFast", "SLOWFAST_8x8_R50.pkl", _PSF, ("slowfast_8x8",), "", "77.0"),
    Weights("PySlowFast", "SLOWONLY_4x16_R50.pkl", _PSF, (), _4X16, "72.7"),
    Weights("PySlowFast", "SLOWONLY_8x8_R50.pkl", _PSF, (), "MODEL.ARCH slow", "74.8"),
    Weights("nonlocal-net", "c2d_baseline_8x8_IN_pretrain_400k.pkl", _NLN, ("c2d",), _UNPADDED, "71.9"),
    Weights("nonlocal-net", "i3d_baseline_8x8_IN_pretrain_400k.pkl", _NLN, ("i3d",), _UNPADDED, "73.4"),
    Weights("nonlocal-net", "i3d_nonlocal_8x8_IN_pretrain_400k.pkl", _NLN, ("i3d_nln",), _UNPADDED, "74.7"),
    Weights(
        "mmaction2",
        "I3D 32x2 R50",
        f"{_MMA}i3d",
        ("i3d",),
        f"MODEL.STEM_TEMPORAL_STRIDE 4 DATA.NUM_FRAMES 32 DATA.SAMPLING_RATE 2 {_MEAN}",
        "73.47",
    ),
    Weights(
        "mmaction2",
        "SlowFast 4x16 R50",
        f"{_MMA}slowfast",
        ("slowfast",),
        f"{_EVERY} MODEL.SLOWFAST.LATERAL_NORM False {_MEAN}",
        "75.55",
    ),
    Weights(
        "mmaction2",
        "SlowFast 8x8 R50",
        f"{_MMA}slowfast",
        ("slowfast_8x8",),
        f"{_EVERY} MODEL.SLOWFAST.FUSION_KERNEL 5 {_MEAN}",
        "76.80",
    ),
    _torchvision("V1"),
    _torchvision("V2"),
    Weights("timm", "resnet50.a1_in1k", "https://huggingface.co/timm/resnet50.a1_in1k", _IMAGE_FITS, _MEAN),
    Weights(
        "d-li14",
        "Oct-ResNet-50, alpha 0.5",
        "https://github.com/d-li14/octconv.pytorch",
        ("oct_c2d", "oct_i3d"),
        f"OCTAVE.ALPHA 0.5 OCTAVE.POOL_LEAVING True {_MEAN}",
        "77.64 (images)",
    ),
    _authors("ablation/a01_densenet-121_alpha-0.125.tar", "densenet121", "76.1"),
    _authors("ablation/a02_resnet-26_alpha-0.250.tar", "resnet26_preact", "76.1"),
    _authors("ablation/a03_resnet-50_alpha-0.500.tar", "resnet50_preact", "77.4"),
    _authors("ablation/a04_resnext-50_32x4d_alpha-0.250.tar", "resnext50_32x4d_preact", "78.8"),
    _authors("ablation/a05_se-resnet-50_alpha-0.125.tar", "se_resnet50_preact", "78.7"),
    _authors("ablation/a06_resnet-101_alpha-0.125.tar", "resnet101_preact", "79.2"),
    _authors("others/mobilenet_v2_100_alpha-0.375.params", "mobilenet_v2_100", "72.0"),
    _authors("others/resnet152_v1f_alpha-0.125.params", "resnet152_v1f", "81.4"),
    Weights("octvideo", "oct_i3d_weizmann.pt", "../octvideo/assets/oct_i3d_weizmann.pt", ("weizmann/oct_i3d",)),
)


def _row(config: str) -> str:
    cfg = load_cfg(ROOT / "configs" / f"{config}.yaml")
    size, frames = cfg.DATA.TRAIN_CROP, cfg.DATA.NUM_FRAMES
    with torch.device("meta"):  # no weights are needed
        network = build_model(cfg)
    cost = count(network, (1, 3, frames, size, size)).as_dict()
    starts = ", ".join(str(number) for number, weights in enumerate(WEIGHTS, 1) if weights.fit(config))
    cells = [
        f"`{config}.yaml`",
        f"{cfg.OCTAVE.ALPHA:g}",
        f"{frames}x{size}x{size}" if frames > 1 else f"{size}x{size}",
        *(f"{cost[key]:.3f}" for key in ("params_m", "gflops", "gflops_with_pooling")),
        PAPER.get(config, ""),
        OURS.get(config, "not trained"),
        starts,
    ]
    return f"| {' | '.join(cells)} |"


def _twins(path: Path) -> tuple[str, bool]:
    return path.stem.removeprefix("oct_"), path.stem.startswith("oct_")


def section(heading: str, folder: str, command: str, text: str) -> list[str]:
    """Return the lines of a data set: the command, and one row per configuration."""
    configs = sorted((ROOT / "configs" / folder).glob("*.yaml"), key=_twins)
    return [
        f"## {heading}",
        f"`{command}`. {text}",
        "",
        "| CONFIG | alpha | clip | params, M | G multiply-adds | with pooling | paper's top-1 | ours | starts from |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(f"{folder}/{path.stem}") for path in configs),
        "",
    ]


def weights_section() -> list[str]:
    """Return the lines about published weights."""
    lines = [
        "## Published weights",
        "`TRAIN.CHECKPOINT` and `TEST.CHECKPOINT` take these by path or URL; what to set and how it was checked is in",
        "[checkpoints.md](checkpoints.md). The published files themselves have not been loaded. A file loads at every",
        "alpha; above 0 it is a warm start, not the same function. Only d-li14's and the authors' are octave, and",
        "fit their own alpha. Those of images are inflated for video. Top-1 is what the file's own project says:",
        "Kinetics-400, 30 views, or ImageNet, one crop.",
        "",
        "| | from | file | keys | top-1 |",
        "|---|---|---|---|---|",
    ]
    for number, weights in enumerate(WEIGHTS, 1):
        address = weights.address + weights.name * weights.address.endswith("/")
        keys = f"`{weights.keys}`" if weights.keys else ""
        lines.append(f"| {number} | {weights.source} | [{weights.name}]({address}) | {keys} | {weights.top1} |")
    return [
        *lines,
        "",
        "Those of Slow, which has no file in `configs/`, go with `kinetics400/c2d_k400.yaml` and the keys. For",
        "mmaction2, timm and d-li14 the addresses are pages that link to the files; timm's is loaded by its path. The",
        "authors publish other alphas and networks too ([checkpoints.md](checkpoints.md#the-authors-networks)). The",
        "last one has seen all nine persons of Weizmann: it is there to predict with.",
    ]


def as_page() -> str:
    """The page in docs/."""
    lines = [
        "# Zoo",
        "",
        "Written by `python benchmarks/zoo.py`. Costs are of one clip at the training size, as `tools/complexity.py`",
        "counts them: billions of multiply-adds of convolutions and classifier, and with those of pooling. The",
        'paper\'s top-1 has the number of its table ("Drop an Octave", Chen et al., ICCV 2019) and is from scratch',
        "where nothing else is said. Ours are one run each. `CONFIG` is below `configs/`; the last column has numbers",
        "of the last table.",
        "",
    ]
    for entry in SECTIONS:
        lines += section(*entry)
    return "\n".join([*lines, *weights_section()]) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", default=PAGE, type=Path, metavar="FILE")
    parser.parse_args().page.write_text(as_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
