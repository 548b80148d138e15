"""Loading, merging and checking of configurations (yacs, through fvcore's CfgNode with ``_BASE_``)."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from octvideo.config.defaults import get_defaults
from octvideo.errors import UserError

__all__ = ["CfgNode", "config_folder", "find_config", "get_defaults", "load_cfg", "save_cfg"]

_PACKAGE = Path(__file__).resolve().parents[1]

# Those of ``octvideo.models.image_networks``, which this module does not import: it would load torch.
_IMAGE_NETWORKS = """
    resnet50 resnet101 se_resnet50 resnext50_32x4d densenet121 mobilenet_v2
    resnet26_preact resnet50_preact resnet101_preact resnet200_preact se_resnet50_preact resnext50_32x4d_preact
    resnext101_32x4d_preact mobilenet_v1_075 mobilenet_v1_100 mobilenet_v2_100 mobilenet_v2_1125 resnet50_glore_preact
    resnet50_blstem resnext50_32x4d_blstem resnext101_32x4d_blstem resnext101_32x4d_blstem_balanced
    resnet152_v1f se_resnet152_v1e
""".split()

_CHOICES = {
    "DEVICE": ("auto", "cpu", "cuda"),
    "MODEL.ARCH": ("c2d", "i3d", "slow", "slowfast", *_IMAGE_NETWORKS),
    "OCTAVE.DOWNSAMPLE": ("avg", "max", "conv"),
    "DATA.SAMPLING": ("even", "pyslowfast", "pytorchvideo"),
    "DATA.DECODER": ("auto", "decord", "pyav", "torchcodec"),
    "TRAIN.PRECISION": ("fp32", "bf16", "fp16"),
    "SOLVER.OPTIMIZER": ("sgd", "adamw"),
    "SOLVER.SCHEDULE": ("cosine", "steps"),
    "TEST.NUM_CROPS": (1, 3),
    "TRAIN.EVAL_CROPS": (1, 3),
    "TEST.AVERAGE": ("softmax", "logits"),
}
_POSITIVE = (
    "MODEL.NUM_CLASSES MODEL.WIDTH OCTAVE.MULTIPLE DATA.NUM_FRAMES DATA.SAMPLING_RATE DATA.TRAIN_CROP DATA.TEST_CROP "
    "DATA.TEST_SHORT_SIDE TRAIN.STEPS TRAIN.BATCH_SIZE TRAIN.ACCUMULATE TRAIN.CHECKPOINT_EVERY TRAIN.KEEP_CHECKPOINTS "
    "DATA.REPEATS TRAIN.LOG_EVERY TRAIN.EVAL_CLIPS TEST.NUM_CLIPS TEST.MAX_VIEWS MODEL.SLOWFAST.FRAME_RATIO "
    "MODEL.SLOWFAST.CHANNEL_RATIO"
).split()
_NOT_NEGATIVE = ("NUM_WORKERS NUM_THREADS DATA.ITEM_TIMEOUT TRAIN.EPOCHS TRAIN.PRECISE_BN TRAIN.EVAL_VIDEOS").split()
_SHARES = "OCTAVE.ALPHA OCTAVE.FAST_ALPHA DATA.FLIP DATA.RANDOM_ERASING DATA.MAX_FAILED".split()


def config_folder() -> Path:
    """The folder of the shipped configurations: ``configs/`` in a checkout, inside the package when installed."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str | Path) -> Path:
    """The file of a configuration given by path, or by its bare name anywhere below ``configs/``.

    Raises:
        UserError: no such file, or several of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = config_folder()
    if (folder / path).is_file():
        return folder / path
    known = sorted(folder.rglob("*.yaml"))
    wanted = path.name if path.suffix else f"{path.name}.yaml"
    found = [file for file in known if file.name == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"--cfg {name}: several configurations have this name: {', '.join(map(str, found))}; give a path"
        )
    near = difflib.get_close_matches(wanted, [file.name for file in known], n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; the shipped ones are in {folder}"
    raise UserError(f"--cfg {name}: no such file{hint}")


def _leaves(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        else:
            yield name


def _check_known(names: Sequence[str], cfg: CfgNode, source: str) -> None:
    known = list(_leaves(cfg))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{source}: unknown key {name}{hint}")


def _merge(cfg: CfgNode, name: str, value: Any, source: str) -> None:
    """Sets one key. From the command line a value is text, read as YAML would be where the default is not text."""
    *path, leaf = name.split(".")
    node = _get(cfg, ".".join(path)) if path else cfg
    wanted = type(node[leaf])
    if isinstance(value, str) and wanted is not str:
        value = yaml.safe_load(value)
    if wanted is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # 1 and 1e-3, which YAML takes for an integer and for text
    if type(value) is not wanted:
        raise UserError(f"{source}: {name} is {value!r}: it must be of type {wanted.__name__}, like {node[leaf]!r}")
    node[leaf] = value


def _get(cfg: CfgNode, name: str) -> Any:
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def check_cfg(cfg: CfgNode) -> None:
    """Raises UserError for a value out of its bounds, naming key, value and bounds."""
    for name, choices in _CHOICES.items():
        if _get(cfg, name) not in choices:
            raise UserError(f"{name} is {_get(cfg, name)!r}: it must be one of {', '.join(map(str, choices))}")
    for name in _POSITIVE:
        if _get(cfg, name) < 1:
            raise UserError(f"{name} is {_get(cfg, name)}: it must be at least 1")
    for name in (
        "NUM_WORKERS",
        "NUM_THREADS",
        "DATA.ITEM_TIMEOUT",
        "TRAIN.EPOCHS",
        "TRAIN.PRECISE_BN",
        "TRAIN.EVAL_VIDEOS",
    ):
        if not 0 <= _get(cfg, name) < float("inf"):
            raise UserError(f"{name} is {_get(cfg, name):g}: it must be at least 0")
    if not 0 <= cfg.TRAIN.EMA < 1:
        raise UserError(f"TRAIN.EMA is {cfg.TRAIN.EMA}: it must be at least 0 and below 1, such as 0.999")
    for name in _SHARES:
        if not 0 <= _get(cfg, name) <= 1:
            raise UserError(f"{name} is {_get(cfg, name)}: it must be between 0 and 1")
    if len(cfg.MODEL.BLOCKS) != 4 or len(cfg.MODEL.NONLOCAL) != 4:
        raise UserError("MODEL.BLOCKS and MODEL.NONLOCAL must have 4 entries, for res2 to res5")
    for name in ("OCTAVE.STAGES", "TRAIN.RECOMPUTE"):
        if not set(_get(cfg, name)) <= {2, 3, 4, 5}:
            raise UserError(f"{name} is {_get(cfg, name)}: stages are 2, 3, 4 and 5")
    low, high = cfg.DATA.TRAIN_SHORT_SIDE
    if not cfg.DATA.TRAIN_CROP <= low <= high:
        raise UserError(
            f"DATA.TRAIN_SHORT_SIDE is [{low}, {high}]: it must be a range that starts at DATA.TRAIN_CROP "
            f"({cfg.DATA.TRAIN_CROP}) or above"
        )
    _check_augmentation(cfg)
    if cfg.DATA.TEST_CROP > cfg.DATA.TEST_SHORT_SIDE:
        raise UserError(f"DATA.TEST_CROP is {cfg.DATA.TEST_CROP}: it must not exceed DATA.TEST_SHORT_SIDE")
    if not all(type(size) is int and size >= 1 for size in cfg.TEST.SCALES):
        raise UserError(f"TEST.SCALES is {cfg.TEST.SCALES}: it must be a list of sizes in pixels, such as [256, 320]")


def _check_augmentation(cfg: CfgNode) -> None:
    data, train = cfg.DATA, cfg.TRAIN
    crop = data.RANDOM_RESIZED_CROP
    numbers = all(type(value) in (int, float) for value in crop)
    if crop and not (numbers and len(crop) == 4 and 0 < crop[0] <= crop[1] <= 1 and 0 < crop[2] <= crop[3]):
        raise UserError(
            f"DATA.RANDOM_RESIZED_CROP is {crop}: it must be [] or four numbers, a range of areas within 0 and 1 and a "
            "range of width / height, such as [0.08, 1.0, 0.75, 1.3333]"
        )
    rand = data.RANDAUGMENT
    if not (len(rand) == 2 and all(type(value) is int for value in rand) and rand[0] >= 0 and 0 <= rand[1] <= 30):
        raise UserError(
            f"DATA.RANDAUGMENT is {rand}: it must be two whole numbers, operations and magnitude (0 to 30), such as "
            "[2, 9]"
        )
    for name in ("MIXUP", "CUTMIX"):
        if not 0 <= train[name] < float("inf"):
            raise UserError(f"TRAIN.{name} is {train[name]}: it must be at least 0")
    if train.BATCH_SIZE % data.REPEATS:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {train.BATCH_SIZE}: it must be divisible by DATA.REPEATS ({data.REPEATS})"
        )


def load_cfg(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """The defaults, then the file (and what it names as ``_BASE_``), then ``KEY VALUE`` overrides, checked and frozen.

    Args:
        path: a path, or a bare name found below ``configs/``; None for the defaults alone.
        overrides: alternating keys and values, as on the command line.

    Raises:
        UserError: unknown file or key (the nearest known one is named), wrong type, value out of bounds.
    """
    cfg = get_defaults()
    if path is not None:
        file = find_config(path)
        try:
            loaded = CfgNode.load_yaml_with_base(str(file))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{file}: cannot be read as a configuration: {' '.join(str(error).split())}") from None
        _check_known(list(_leaves(loaded)), cfg, str(file))
        for key in _leaves(loaded):
            _merge(cfg, key, _get(loaded, key), str(file))
    if len(overrides) % 2:
        raise UserError(f"overrides must be KEY VALUE pairs: {overrides[-1]} has no value")
    _check_known(list(overrides[::2]), cfg, "overrides")
    for key, value in zip(overrides[::2], overrides[1::2]):
        _merge(cfg, key, value, "overrides")
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def save_cfg(cfg: CfgNode, path: str | Path) -> None:
    """Writes the resolved configuration as YAML; ``load_cfg`` reads it back."""
    Path(path).write_text(cfg.dump())
