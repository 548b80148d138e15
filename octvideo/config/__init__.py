"""Loading, merging and checking of configurations (yacs, through fvcore's CfgNode with ``_BASE_``)."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from fvcore.common.config import CfgNode

from octvideo.config.defaults import get_defaults
from octvideo.errors import UserError
from octvideo.files import write_text

__all__ = ["CfgNode", "config_folder", "find_config", "get_defaults", "load_cfg", "save_cfg", "with_keys"]

_PACKAGE = Path(__file__).resolve().parents[1]

# Those of ``octvideo.models.image.networks``, which this module does not import: it would load torch.
_IMAGE_NETWORKS = """
    resnet50 resnet101 se_resnet50 resnext50_32x4d densenet121 mobilenet_v2
    resnet26_preact resnet50_preact resnet101_preact resnet200_preact se_resnet50_preact resnext50_32x4d_preact
    resnext101_32x4d_preact mobilenet_v1_075 mobilenet_v1_100 mobilenet_v2_100 mobilenet_v2_1125 resnet50_glore_preact
    resnet50_blstem resnext50_32x4d_blstem resnext101_32x4d_blstem resnext101_32x4d_blstem_balanced
    resnet152_v1f se_resnet152_v1e
""".split()

# Of YAML: faults of its form, bytes that are no text and dates that do not exist.
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
_CHOICES = {
    "DEVICE": ("auto", "cpu", "cuda"),
    "MODEL.ARCH": ("c2d", "i3d", "slow", "slowfast", *_IMAGE_NETWORKS),
    "MODEL.SLOWFAST.SLOW_FRAMES": ("spread", "every"),
    "OCTAVE.DOWNSAMPLE": ("avg", "max", "conv"),
    "DATA.SAMPLING": ("even", "pyslowfast", "pytorchvideo"),
    "DATA.DECODER": ("auto", "decord", "pyav", "torchcodec"),
    "TRAIN.INFLATE": ("mean", "centre"),
    "TRAIN.PRECISION": ("fp32", "bf16", "fp16"),
    "SOLVER.OPTIMIZER": ("sgd", "adamw"),
    "SOLVER.SCHEDULE": ("cosine", "steps"),
    "TEST.NUM_CROPS": (1, 3),
    "TRAIN.EVAL_CROPS": (1, 3),
    "TEST.AVERAGE": ("softmax", "logits"),
}


class _Rule(NamedTuple):
    """What a number, or each number of a list, must be; infinity and NaN never fit."""

    kind: type = int  # float takes whole numbers too
    low: float = 0
    high: float = math.inf
    below: float = math.inf  # as ``high``, which a number must not reach
    odd: bool = False
    lengths: tuple[int, ...] = ()  # numbers of entries that a list may have; () = any
    inner: int | None = None  # the list has lists, each of at least so many numbers

    def fits(self, value: Any) -> bool:
        numbers = value if isinstance(value, list) else [value]
        if isinstance(value, list) and self.lengths and len(value) not in self.lengths:
            return False
        if self.inner is not None:
            if not all(isinstance(part, list) and len(part) >= self.inner for part in numbers):
                return False
            numbers = [number for part in numbers for number in part]
        kinds = (int, float) if self.kind is float else (int,)
        return all(
            type(number) in kinds
            and self.low <= number <= self.high
            and number < self.below
            and (number % 2 or not self.odd)
            for number in numbers
        )

    def wanted(self, is_list: bool) -> str:
        if self.high < math.inf:
            bounds = f"between {self.low:g} and {self.high:g}"
        else:
            bounds = f"at least {self.low:g}" + (f" and below {self.below:g}" if self.below < math.inf else "")
        kind = "odd " if self.odd else "whole " if self.kind is int else ""
        if not is_list:
            return f"an odd number, {bounds}" if self.odd else bounds
        count = {0: "a list of", 2: "two", 3: "three", 4: "four"}[max(self.lengths, default=0)]
        lists = "" if self.inner is None else "lists of " if self.inner == 0 else "non-empty lists of "
        return f"{'[] or ' if 0 in self.lengths else ''}{count} {lists}{kind}numbers, each {bounds}"


_RULES = {
    name: rule
    for names, rule in (
        ("MODEL.WIDTH MODEL.STEM_TEMPORAL_STRIDE MODEL.SLOWFAST.FRAME_RATIO", _Rule(low=1)),
        ("MODEL.SLOWFAST.CHANNEL_RATIO MODEL.SLOWFAST.FUSION_RATIO OCTAVE.MULTIPLE DATA.NUM_FRAMES", _Rule(low=1)),
        ("DATA.SAMPLING_RATE DATA.TRAIN_CROP DATA.TEST_CROP DATA.TEST_SHORT_SIDE DATA.REPEATS", _Rule(low=1)),
        ("TRAIN.STEPS TRAIN.BATCH_SIZE TRAIN.ACCUMULATE TRAIN.CHECKPOINT_EVERY TRAIN.KEEP_CHECKPOINTS", _Rule(low=1)),
        ("TRAIN.LOG_EVERY TRAIN.EVAL_CLIPS TEST.NUM_CLIPS TEST.MAX_VIEWS TEST.SCALES", _Rule(low=1)),
        ("NUM_WORKERS NUM_THREADS DATA.RETRIES TRAIN.PRECISE_BN TRAIN.EVAL_EVERY TRAIN.EVAL_VIDEOS", _Rule()),
        ("MODEL.NUM_CLASSES SOLVER.BASE_BATCH_SIZE SOLVER.WARMUP_STEPS", _Rule()),
        ("SEED", _Rule(high=2**63 - 1)),  # the generators take no larger one
        (
            "DATA.ITEM_TIMEOUT TRAIN.MIXUP TRAIN.CUTMIX TRAIN.CLIP_GRAD_NORM",
            _Rule(float),
        ),
        ("DATA.COLOR_JITTER TRAIN.EPOCHS", _Rule(float, below=1e9)),  # they are multiplied
        ("SOLVER.BASE_LR SOLVER.WEIGHT_DECAY SOLVER.GAMMA", _Rule(float)),
        ("MODEL.DROPOUT OCTAVE.ALPHA OCTAVE.FAST_ALPHA DATA.FLIP DATA.RANDOM_ERASING", _Rule(float, high=1)),
        ("DATA.MAX_FAILED TRAIN.LABEL_SMOOTHING SOLVER.WARMUP_START SOLVER.END_LR", _Rule(float, high=1)),
        ("TRAIN.EMA SOLVER.MOMENTUM SOLVER.MILESTONES", _Rule(float, below=1)),
        ("DATA.MEAN", _Rule(float, high=1, lengths=(3,))),
        ("DATA.STD", _Rule(float, low=1e-3, lengths=(3,))),  # divided by
        ("DATA.TRAIN_SHORT_SIDE", _Rule(low=1, lengths=(2,))),
        ("MODEL.BLOCKS", _Rule(low=1, lengths=(4,))),
        ("OCTAVE.STAGES TRAIN.RECOMPUTE", _Rule(low=2, high=5)),
        ("MODEL.SLOWFAST.FUSION_KERNEL", _Rule(low=1, odd=True)),
        ("MODEL.STEM_KERNEL", _Rule(low=1, odd=True, lengths=(0, 3))),
        ("MODEL.TEMPORAL_KERNELS", _Rule(low=1, odd=True, lengths=(0, 4), inner=1)),
        ("MODEL.NONLOCAL", _Rule(lengths=(4,), inner=0)),
    )
    for name in names.split()
}


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


def _leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _check_known(names: Iterable[str], cfg: CfgNode, source: str) -> None:
    known = dict(_leaves(cfg))
    for name in names:
        if name not in known:
            if below := [key for key in known if key.startswith(f"{name}.")]:
                raise UserError(f"{source}: {name} is no key but has keys below it: give them, such as {below[0]}")
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{source}: unknown key {name}{hint}")


def _merge(cfg: CfgNode, name: str, value: Any, source: str) -> None:
    """Sets one key. From the command line a value is text, read as YAML would be where the default is not text."""
    *path, leaf = name.split(".")
    node = _get(cfg, ".".join(path)) if path else cfg
    wanted = type(node[leaf])
    if isinstance(value, str) and wanted is not str:
        with contextlib.suppress(*_UNREADABLE):  # text stays text, which is of a wrong type
            value = yaml.safe_load(value)
    if wanted is float and type(value) in (int, str):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)  # 1 and 1e-3, which YAML takes for an integer and for text
    if type(value) is not wanted:
        raise UserError(f"{source}: {name} is {value!r}: it must be of type {wanted.__name__}, like {node[leaf]!r}")
    node[leaf] = value


def _get(cfg: CfgNode, name: str) -> Any:
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def _is_huge(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_huge, value))
    return type(value) is int and value >= 2**31


def check_cfg(cfg: CfgNode) -> None:
    """Raises UserError for a value out of its bounds, naming key, value and bounds."""
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty: name a folder for what a run leaves")
    if any("\ud800" <= letter <= "\udfff" for letter in cfg.OUTPUT_DIR):
        raise UserError(f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r}: TensorBoard cannot write there; give a name in UTF-8")
    for name, choices in _CHOICES.items():
        if _get(cfg, name) not in choices:
            raise UserError(f"{name} is {_get(cfg, name)!r}: it must be one of {', '.join(map(str, choices))}")
    for name, rule in _RULES.items():
        value = _get(cfg, name)
        if not rule.fits(value):
            raise UserError(f"{name} is {value!r}: it must be {rule.wanted(isinstance(value, list))}")
        if name != "SEED" and _is_huge(value):
            raise UserError(f"{name} is {value!r}: whole numbers must be below 2^31")
    model, milestones = cfg.MODEL, cfg.SOLVER.MILESTONES
    if any(index >= blocks for stage, blocks in zip(model.NONLOCAL, model.BLOCKS) for index in stage):
        raise UserError(
            f"MODEL.NONLOCAL is {model.NONLOCAL}: the indices of a stage count from 0 and must be below its number of "
            f"MODEL.BLOCKS ({model.BLOCKS})"
        )
    if any(first >= second for first, second in zip(milestones, milestones[1:])):
        raise UserError(f"SOLVER.MILESTONES is {milestones}: each must be larger than the one before")
    low, high = cfg.DATA.TRAIN_SHORT_SIDE
    if not cfg.DATA.TRAIN_CROP <= low <= high:
        raise UserError(
            f"DATA.TRAIN_SHORT_SIDE is [{low}, {high}]: it must be a range that starts at DATA.TRAIN_CROP "
            f"({cfg.DATA.TRAIN_CROP}) or above"
        )
    _check_augmentation(cfg)
    if cfg.DATA.TEST_CROP > cfg.DATA.TEST_SHORT_SIDE:
        raise UserError(f"DATA.TEST_CROP is {cfg.DATA.TEST_CROP}: it must not exceed DATA.TEST_SHORT_SIDE")


def _check_augmentation(cfg: CfgNode) -> None:
    data, train = cfg.DATA, cfg.TRAIN
    crop = data.RANDOM_RESIZED_CROP
    numbers = all(type(value) in (int, float) for value in crop)
    if crop and not (numbers and len(crop) == 4 and 0 < crop[0] <= crop[1] <= 1 and 0 < crop[2] <= crop[3] < math.inf):
        raise UserError(
            f"DATA.RANDOM_RESIZED_CROP is {crop}: it must be [] or four numbers, a range of areas within 0 and 1 and a "
            "range of width / height, such as [0.08, 1.0, 0.75, 1.3333]"
        )
    for key in ("MIXUP", "CUTMIX"):
        if 0 < train[key] < 1e-6:
            raise UserError(f"TRAIN.{key} is {train[key]}: it must be 0 or at least 1e-6")
    rand = data.RANDAUGMENT
    if not (len(rand) == 2 and all(type(value) is int for value in rand) and rand[0] >= 0 and 0 <= rand[1] <= 30):
        raise UserError(
            f"DATA.RANDAUGMENT is {rand}: it must be two whole numbers, operations and magnitude (0 to 30), such as "
            "[2, 9]"
        )
    if train.BATCH_SIZE % data.REPEATS:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {train.BATCH_SIZE}: it must be divisible by DATA.REPEATS ({data.REPEATS})"
        )


def _check_once(file: str, node: yaml.Node | None) -> None:
    names = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.value in names:
            raise UserError(f"{file}:{key.start_mark.line + 1}: {key.value} stands there twice; make one of the two")
        names.add(str(key.value))
        _check_once(file, value)


class _File(CfgNode):
    """Reads files, and refuses a key that stands twice, of which YAML would keep the last one."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with open(filename, encoding="utf-8-sig") as file:
            _check_once(filename, yaml.compose(file))
        return open(filename, encoding="utf-8-sig")  # a file, whose name faults are told with


def _read(file: Path) -> dict[str, Any]:
    """``{"MODEL.ARCH": "i3d", ...}`` of a file and of what it names as ``_BASE_``."""
    try:
        # An empty file, a list or a number ends in a TypeError, text in an AttributeError or in text again.
        loaded = _File.load_yaml_with_base(str(file))
    except RecursionError:
        raise UserError(f"{file}: its _BASE_ leads back to itself, or it is nested too deeply; name another") from None
    except (TypeError, AttributeError):
        loaded = None
    except (OSError, AssertionError, *_UNREADABLE) as error:
        raise UserError(f"{file}: cannot be read as a configuration: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UserError(
            f"{file}: it, or its _BASE_, is no configuration: it must have lines such as OUTPUT_DIR: output"
        )
    return dict(_leaves(loaded))


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
        loaded = _read(file)
        _check_known(loaded, cfg, str(file))
        for key, value in loaded.items():
            _merge(cfg, key, value, str(file))
    if len(overrides) % 2:
        raise UserError(f"overrides must be KEY VALUE pairs: {overrides[-1]} has no value")
    _check_known(overrides[::2], cfg, "overrides")
    for key, value in zip(overrides[::2], overrides[1::2]):
        _merge(cfg, key, value, "overrides")
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def save_cfg(cfg: CfgNode, path: str | Path) -> None:
    """Writes the resolved configuration as YAML; ``load_cfg`` reads it back.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(Path(path), cfg.dump())


def with_keys(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Return a frozen copy of a configuration with other values of some keys, such as ``{"TRAIN.STEPS": 10}``."""
    copy = cfg.clone()
    copy.defrost()
    for name, value in values.items():
        *path, leaf = name.split(".")
        node = copy
        for part in path:
            node = node[part]
        node[leaf] = value
    copy.freeze()
    return copy
