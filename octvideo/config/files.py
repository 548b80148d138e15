"""Find and read configuration files (YAML with ``_BASE_``)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml
from fvcore.common.config import CfgNode

from octvideo.errors import UserError, one_line

__all__ = ["INVALID_YAML", "config_folder", "find_config", "flatten", "read_config"]

_PACKAGE = Path(__file__).resolve().parents[1]

# What YAML raises for bad syntax, for bytes that are not text and for dates that do not exist.
INVALID_YAML = (yaml.YAMLError, ValueError, RecursionError)


def config_folder() -> Path:
    """Return the folder of the shipped configurations: ``configs/`` of a checkout, or inside the installed package."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str | Path) -> Path:
    """Return the file of a configuration, given by its path or by its bare name anywhere below ``configs/``.

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


def read_config(file: Path) -> dict[str, Any]:
    """Return ``{"MODEL.ARCH": "i3d", ...}``: the keys of a file and of its ``_BASE_``.

    Raises:
        UserError: a file that cannot be read, is no configuration or has a key twice.
    """
    try:
        # An empty file, a list or a number ends in a TypeError; text ends in an AttributeError or is returned.
        loaded = _UniqueKeys.load_yaml_with_base(str(file))
    except RecursionError:
        raise UserError(f"{file}: its _BASE_ leads back to itself, or it is nested too deeply; name another") from None
    except (TypeError, AttributeError):
        loaded = None
    except (OSError, AssertionError, *INVALID_YAML) as error:
        raise UserError(f"{file}: cannot be read as a configuration: {one_line(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{file}: it or its _BASE_ is not a configuration; write lines such as OUTPUT_DIR: output")
    return dict(flatten(loaded))


class _UniqueKeys(CfgNode):
    """Refuses a file with a duplicate key, of which YAML would keep the last one."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with open(filename, encoding="utf-8-sig") as file:
            _check_duplicates(filename, yaml.compose(file))
        return open(filename, encoding="utf-8-sig")  # YAML's own errors name an open file


def _check_duplicates(file: str, node: yaml.Node | None, prefix: str = "") -> None:
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise UserError(f"{file}: duplicate key {name} (lines {lines[name]} and {line})")
        lines[name] = line
        _check_duplicates(file, value, f"{name}.")


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a nested configuration with their full names, such as ``("MODEL.ARCH", "i3d")``."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
