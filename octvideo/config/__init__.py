"""Load, merge, check and save configurations (yacs, through fvcore's CfgNode with ``_BASE_``)."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from octvideo.config.checks import check_cfg
from octvideo.config.defaults import KEYS, get_defaults
from octvideo.config.files import INVALID_YAML, config_folder, find_config, flatten, read_config
from octvideo.errors import UserError
from octvideo.files import write_text

__all__ = [
    "KEYS",
    "CfgNode",
    "config_folder",
    "find_config",
    "flatten",
    "get_defaults",
    "load_cfg",
    "save_cfg",
    "with_keys",
    "with_overrides",
]


def load_cfg(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Return the defaults, changed by the file and its ``_BASE_``, then by the overrides; checked and frozen.

    Args:
        path: a path, or a bare name found below ``configs/``; None for the defaults alone.
        overrides: alternating keys and values, as on the command line.

    Raises:
        UserError: unknown file or key (the nearest known one is named), wrong type, value out of bounds.
    """
    cfg = get_defaults()
    if path is not None:
        file = find_config(path)
        _merge(cfg, list(read_config(file).items()), str(file))
    return with_overrides(cfg, overrides)


def with_overrides(cfg: CfgNode, overrides: Sequence[str]) -> CfgNode:
    """Return a checked and frozen copy with other values of some keys.

    Args:
        cfg: a configuration.
        overrides: alternating keys and values, as on the command line.

    Raises:
        UserError: as ``load_cfg``.
    """
    other = cfg.clone()
    other.defrost()
    if len(overrides) % 2:
        raise UserError(f"overrides must be KEY VALUE pairs: {overrides[-1]} has no value")
    _merge(other, list(zip(overrides[::2], overrides[1::2])), "overrides")
    check_cfg(other)
    other.freeze()
    return other


def save_cfg(cfg: CfgNode, path: str | Path) -> None:
    """Write the resolved configuration as YAML; ``load_cfg`` reads it back.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(Path(path), cfg.dump())


def with_keys(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Return a frozen copy of the configuration with other values of some keys: ``{"OCTAVE.ALPHA": 0.0}``."""
    other = cfg.clone()
    other.defrost()
    for key, value in values.items():
        _set(other, key, value)
    other.freeze()
    return other


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    for part in path:
        cfg = cfg[part]
    cfg[leaf] = value


def _merge(cfg: CfgNode, values: Sequence[tuple[str, Any]], source: str) -> None:
    for name, _ in values:
        _check_known(name, source)
    for name, value in values:
        _set(cfg, name, _typed(name, value, source))


def _check_known(name: str, source: str) -> None:
    if name in KEYS:
        return
    if below := [key for key in KEYS if key.startswith(f"{name}.")]:
        raise UserError(f"{source}: {name} is a group of keys; set one of them, such as {below[0]}")
    near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"{source}: unknown key {name}{hint}")


def _typed(name: str, value: Any, source: str) -> Any:
    """Return the value in the type of the key's default. Text, as from the command line, is read as YAML."""
    default = KEYS[name].default
    wanted = type(default)
    if isinstance(value, str) and wanted is not str:
        with contextlib.suppress(*INVALID_YAML):  # then it stays text, a wrong type
            value = yaml.safe_load(value)
    if wanted is float and type(value) in (int, str):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)  # YAML reads 1 as an integer and 1e-3 as text
    if type(value) is not wanted:
        raise UserError(f"{source}: {name} is {value!r}: it must be of type {wanted.__name__}, like {default!r}")
    return value
