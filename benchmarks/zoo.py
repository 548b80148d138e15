#!/usr/bin/env python
"""Write docs/zoo.md: each configuration with its cost, its accuracy and the weights it can start from.

    python benchmarks/zoo.py [--page FILE]

Costs are those of `tools/complexity.py`. The networks are on the meta device, so nothing is computed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch

from octvideo.config import config_folder, load_cfg
from octvideo.models import build_model
from octvideo.models.published import WEIGHTS
from octvideo.models.zoo import config_file, list_models, published
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
    "weizmann/oct_i3d": "92.2 % of 90 clips (folds 93.3, 86.7, 96.7)",
    "weizmann/i3d": "96.7 % of 90 clips (folds 100, 100, 90.0)",
    "quickstart/oct_i3d": _quickstart("Oct-I3D"),
    "quickstart/oct_c2d": _quickstart("Oct-C2D"),
}

# Heading, folder, command to train and test, text below the heading.
_KINETICS = "octvideo run-net --cfg CONFIG DATA.TRAIN train.csv DATA.VAL val.csv OUTPUT_DIR output/NAME"
SECTIONS = (
    (
        "Kinetics-400",
        "kinetics400",
        _KINETICS,
        "30 views. The published top-1 is that of the file that `pretrained` downloads. On a CPU, start with `x3d_s`: "
        "it has the published accuracy of `i3d_r50` at a fourteenth of the multiply-adds.",
    ),
    ("Kinetics-600", "kinetics600", _KINETICS, "30 views. Weights of Kinetics-400 load, with a new head."),
    (
        "ImageNet",
        "imagenet",
        "octvideo run-net --cfg CONFIG DATA.TRAIN train DATA.VAL val OUTPUT_DIR output/NAME",
        "One crop. The paper's ResNet-50 is `resnet50_preact`; `resnet50` is torchvision's "
        "([image networks](image_networks.md)).",
    ),
    (
        "Weizmann",
        "weizmann",
        "python tools/weizmann.py --data DIR --cfg CONFIG",
        "30 views, three folds of three persons.",
    ),
    (
        "Quickstart",
        "quickstart",
        "octvideo run-net --cfg CONFIG OUTPUT_DIR output/NAME",
        "30 views of the rendered actions of `make quickstart` ([time direction](time_direction.md)).",
    ),
    (
        "Hard rendered set",
        "hard",
        "octvideo compare --cfg CONFIG --alphas 0 0.25x8 0.5x16 OUTPUT_DIR output/NAME",
        "2 views of the videos of `data_tools/make_sample_dataset.py --hard` ([compare](compare.md)).",
    ),
)


def _names() -> dict[str, str]:
    """Return the name of each configuration that has one, such as ``kinetics400/oct_i3d_k400``: ``oct_i3d_r50``."""
    configs = {name: config_file(name).relative_to(config_folder()).with_suffix("") for name in list_models()}
    return {config.as_posix(): name for name, config in configs.items()}


class Row(NamedTuple):
    """A line of the table of a data set, and the billions of multiply-adds in it."""

    line: str
    gflops: float


def _row(config: str, name: str | None) -> Row:
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
    if name is not None:
        best = next(iter(published(name).values()), None)
        cells = [f"`{name}`", best.top1 if best and best.alpha == cfg.OCTAVE.ALPHA else "", *cells]
    return Row(f"| {' | '.join(cells)} |", cost["gflops"])


def section(heading: str, folder: str, command: str, text: str) -> list[str]:
    """Return the lines of a data set: the command, and one row per configuration, from the least multiply-adds on."""
    names = _names()
    stems = sorted(path.stem for path in (ROOT / "configs" / folder).glob("*.yaml"))
    rows = {stem: _row(f"{folder}/{stem}", names.get(f"{folder}/{stem}")) for stem in stems}

    def twins(stem: str) -> tuple[float, str, bool]:
        vanilla = stem.removeprefix("oct_")
        return rows.get(vanilla, rows[stem]).gflops, vanilla, stem != vanilla

    columns = "CONFIG | alpha | clip | params, M | G multiply-adds | with pooling | paper's top-1 | ours | starts from"
    if f"{folder}/{stems[0]}" in names:
        columns = f"name | published top-1 | {columns}"
    return [
        f"## {heading}",
        text,
        "```sh",
        command,
        "```",
        "",
        f"| {columns} |",
        f"|{'---|' * len(columns.split(' | '))}",
        *(rows[stem].line for stem in sorted(stems, key=twins)),
        "",
    ]


def weights_section() -> list[str]:
    """Return the lines about published weights."""
    lines = [
        "## Published weights",
        "`TRAIN.CHECKPOINT`, `TEST.CHECKPOINT` and `--checkpoint` take these files by path or URL.",
        "[Checkpoints](checkpoints.md) says what to set, and how the loading was checked.",
        "The published files themselves have not been loaded.",
        "",
        "- A vanilla file loads at every alpha. Above 0 it is a warm start: fine-tune.",
        "- The files of d-li14 and of the paper's authors are octave, and fit their own alpha.",
        "- Files of image networks are inflated for video.",
        "- Top-1 is what the file's own project says: Kinetics-400 with 30 views, or ImageNet with one crop.",
        "",
        "| | from | file | `pretrained` | keys | top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for number, weights in enumerate(WEIGHTS, 1):
        file = f"[{weights.name}]({weights.url})" if weights.url else f"`octvideo/assets/{weights.name}`"
        tag = f"`{weights.tag}`" if weights.tag else ""
        keys = f"`{weights.keys}`" if weights.keys else ""
        lines.append(f"| {number} | {weights.source} | {file} | {tag} | {keys} | {weights.top1} |")
    return [
        *lines,
        "",
        "The addresses of mmaction2, timm and d-li14 are pages that link to the files. Load timm's by path.",
        "The authors publish other alphas and networks too: [checkpoints](checkpoints.md).",
        "The last two have seen all nine persons of Weizmann: use them to predict, not to measure.",
    ]


def as_page() -> str:
    """The page in docs/."""
    lines = [
        "# Zoo",
        "",
        "Use a network by its name. `octvideo.list_models()` returns all names.",
        "```sh",
        "octvideo predict clip.mp4 --model x3d_s  # downloads the weights once",
        "```",
        "```python",
        "import octvideo",
        "",
        'assert "x3d_s" in octvideo.list_models()',
        'network = octvideo.create_model("oct_x3d_s", alpha=0.25, num_classes=10)  # random weights',
        "```",
        "",
        '- `pretrained=True`, or a tag such as `pretrained="k400"`, loads published weights.',
        '- `torch.hub.load("path/to/octvideo", "x3d_s", source="local")` takes the same arguments.',
        "- `--model` works in `predict`, `app`, `export`, `benchmark`, `train` and `run-net`.",
        "  With `--checkpoint FILE` the weights are those of the file.",
        "- A file is downloaded once, into `~/.cache/torch/hub/checkpoints`. Its SHA-256 is kept in `FILE.sha256`;",
        "  a later download must have the same.",
        "- Without a connection the error says where to put the file. `OCTVIDEO_WEIGHTS_URL` replaces",
        "  `https://dl.fbaipublicfiles.com`, for a mirror.",
        "- Downloads were tried on a local server with files of the same layout, not on the real one.",
        "",
        "## Columns",
        "`python benchmarks/zoo.py` writes this page.",
        "",
        "- Costs: one clip at the training size, as `octvideo complexity` counts them. Multiply-adds are those of",
        "  convolutions and classifier, then with pooling.",
        "- Paper's top-1: with the number of its table (Drop an Octave, ICCV 2019); from scratch unless stated.",
        "- Ours: one run each ([results](results.md)).",
        "- `CONFIG` is below `configs/`. The last column has numbers of the last table.",
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
