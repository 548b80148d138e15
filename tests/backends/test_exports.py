"""Every architecture of ``configs/``, exported: the logits of PyTorch, from a graph that keeps five dimensions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from octvideo.backends.runners import (
    FORMATS,
    TOLERANCE,
    Runner,
    load_exported,
    relative_difference,
    save_exported,
)
from octvideo.config import CfgNode, load_cfg
from octvideo.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PACKAGES = {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",), "torch-export": ()}
QUICK = {
    ("kinetics400/oct_i3d_k400", 75),
    ("kinetics400/oct_slowfast_8x8_k400", 64),
}  # 75 is odd in the stem already


class Exported(NamedTuple):
    """A network and the file that was made of it."""

    model: nn.Module
    cfg: CfgNode
    format: str
    path: Path

    @property
    def run(self) -> Runner:
        return load_exported(self.format, self.path)


def _cases() -> Iterator[object]:
    # Kinetics-600 has the networks of Kinetics-400, with more classes.
    paths = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "kinetics600"]
    for name in (f"{path.parent.name}/{path.stem}" for path in paths):
        for size in (64, 75) if name.startswith("kinetics400/oct_") else (75,):
            marks = () if (name, size) in QUICK else (pytest.mark.full,)
            for format in FORMATS:
                yield pytest.param((name, size, format), id=f"{name}-{size}-{format}", marks=marks)


def _small(name: str, size: int) -> CfgNode:
    keys = f"DATA.TEST_CROP {size} DATA.TRAIN_CROP {size} DATA.TRAIN_SHORT_SIDE [{size},{size}]".split()
    keys += f"DATA.TEST_SHORT_SIDE {size} MODEL.NUM_CLASSES 7".split()
    if not re.search("densenet|mobilenet|x3d|csn|r2plus1d", name):  # their layouts are fixed
        keys += ["MODEL.BLOCKS", "[1, 1, 1, 1]"]
        keys += [] if "resnext" in name else ["MODEL.WIDTH", "16"]
    if "nln" in name:
        keys += ["MODEL.NONLOCAL", "[[], [0], [0], []]"]
    if "r101_50_50" in name:
        keys += ["MODEL.SLOWFAST.TEMPORAL_BLOCKS", "[1, 1, 1, 1]"]
    return load_cfg(CONFIGS / f"{name}.yaml", keys)


@torch.no_grad()
def _moved(model: nn.Module) -> nn.Module:
    """Weights and statistics away from those of initialisation, so that every path shows in the logits."""
    torch.manual_seed(0)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith(("proj.bias", "fc.bias", "classifier.bias")):
            value.zero_()  # of the head: it would hide the features, whose weights are small
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.uniform_(-0.1, 0.1)
        elif value.dim() > 2 and value.shape[1] == 1:
            value.mul_(len(value) ** 0.5)  # depth-wise kernels, initialised as if they saw all channels, let nothing by
        elif value.dim() == 1 and name.endswith("weight"):
            value.uniform_(0.5, 1.0)  # the last norm of a block starts at zero, which would switch its branch off
    model.load_state_dict(state)  # an octave norm keeps its groups apart: its entries are copies
    return model.eval()


def clips_of(number: int, frames: int, size: int) -> Tensor:
    """Noise in frames of different colours, in memory as clips come in."""
    clips = torch.randn(number, frames, size, size, 3) + 2 * torch.randn(number, frames, 1, 1, 3)
    return clips.permute(0, 4, 1, 2, 3)


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The network of ``(configuration, pixels, format)``."""
    name, size, format = request.param
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    cfg = _small(name, size)
    model = _moved(build_model(cfg))
    path = tmp_path_factory.mktemp("exported") / f"network{FORMATS[format]}"
    save_exported(model, (cfg.DATA.NUM_FRAMES, size, size), format, path)
    return Exported(model, cfg, format, path)


@pytest.mark.parametrize("exported", list(_cases()), indirect=True)
def test_exports_give_the_same_logits(exported: Exported) -> None:
    frames, size, run = exported.cfg.DATA.NUM_FRAMES, exported.cfg.DATA.TEST_CROP, exported.run
    clips = clips_of(3, frames, size)
    with torch.inference_mode():
        expected = exported.model(clips)
    assert expected.std(0).max() > 10 * TOLERANCE * expected.abs().max(), "the logits must depend on the clip"
    assert relative_difference(run(clips), expected) <= TOLERANCE
    assert relative_difference(run(clips[:1]), expected[:1]) <= TOLERANCE


@pytest.mark.parametrize("exported", list(_cases()), indirect=True)
def test_exports_keep_their_dimensions(exported: Exported) -> None:
    operations = _operations(exported)
    kinds = Counter(kind for kind, *_ in operations)
    assert any(_is_convolution(kind) for kind in kinds)
    assert not [kind for kind in kinds if "linspace" in kind.lower()], "frame numbers are integers"
    if exported.format == "torch-export" and exported.cfg.DATA.NUM_FRAMES > 1:
        assert not [kind for kind in kinds if "2d" in kind]
    if not any(exported.cfg.MODEL.NONLOCAL):  # attention is a product of matrices
        shapes = re.compile("transpose|permute|reshape|view|flatten", re.IGNORECASE)
        assert not {kind: count for kind, count in _between_convolutions(operations).items() if shapes.search(kind)}


Operation = tuple[str, list[str], list[str]]  # kind, inputs, outputs


def _operations(exported: Exported) -> list[Operation]:
    """Those of the file, in the order in which they run."""
    if exported.format == "onnx":
        import onnx

        nodes = onnx.load(exported.path).graph.node
        return [(node.op_type, list(node.input), list(node.output)) for node in nodes]
    if exported.format == "openvino":
        import openvino

        found: list[Operation] = []
        for node in openvino.Core().read_model(exported.path).get_ordered_ops():
            inputs = [node.input_value(index).get_node().get_name() for index in range(node.get_input_size())]
            found.append((node.get_type_name(), inputs, [node.get_name()]))
        return found
    graph = torch.export.load(exported.path).graph
    return [(str(node.target), [source.name for source in node.all_input_nodes], [node.name]) for node in graph.nodes]


def _is_convolution(kind: str) -> bool:
    return re.search(r"conv(\b|olution|\d)", kind.lower()) is not None


def _between_convolutions(operations: list[Operation]) -> Counter[str]:
    """How often each kind comes after a convolution and before another one."""
    after: set[str] = set()
    for kind, inputs, outputs in operations:
        if _is_convolution(kind) or after.intersection(inputs):
            after.update(outputs)
    before: set[str] = set()
    for kind, inputs, outputs in reversed(operations):
        if _is_convolution(kind) or before.intersection(outputs):
            before.update(inputs)
    return Counter(
        kind for kind, inputs, outputs in operations if after.intersection(inputs) and before.intersection(outputs)
    )
