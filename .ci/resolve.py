#!/usr/bin/env python3
"""Check that all requirements resolve to wheels for each Python: ``.ci/resolve.py [3.14 ...]``.

The tools of development are included. The Pythons need not be there: pip resolves for another one with
``--python-version``, and downloads nothing but metadata. Three requirements have no wheels; they are pure Python, so
one wheel of each, built here, serves every Python. Markers such as ``python_version < "3.11"`` follow the Python that
runs this script: a limit of pip. Run it with a recent pip, such as that of ``.venv``: pip 23 passes over releases
that the running Python is too old for.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
SOURCES = ("fvcore", "iopath", "pytorchvideo")
EXTRAS = "dev,export,app"
SHOWN = ("torch", "torchvision", "numpy", "av", "decord", "onnxruntime", "openvino", "gradio")


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pip."""
    return subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True)


def build_wheels(folder: Path) -> str | None:
    """Build octvideo and what has no wheels; return the error, if there is one.

    The source packages may come in any version: octvideo's own bounds choose when all is resolved.
    """
    root = Path(__file__).resolve().parents[1]
    source = folder / "source"  # a copy: setuptools leaves its build in the folder that it builds from
    for name in ("octvideo", "configs"):
        shutil.copytree(root / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    done = pip("wheel", "-q", "--no-deps", "--wheel-dir", folder, source, *SOURCES)
    if done.returncode:
        return done.stderr.strip()
    platform = [path.name for path in folder.glob("*.whl") if not path.name.endswith("-none-any.whl")]
    return f"not pure Python: {', '.join(platform)}" if platform else None


def resolve(python: str, wheels: Path) -> tuple[dict[str, str], str]:
    """Return the versions by package, and pip's errors (empty when it resolves)."""
    report = wheels / f"{python}.json"
    target = ["--target", wheels / "nothing", "--python-version", python, "--only-binary", ":all:"]
    options = ["--dry-run", "--ignore-installed", "-q", "--find-links", wheels, "--report", report]
    done = pip("install", *options, *target, f"octvideo[{EXTRAS}]")
    if done.returncode:
        return {}, "\n".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {package["name"].lower(): package["version"] for package in packages}, ""


def main(pythons: list[str]) -> int:
    """Print a line for each Python; return 1 where one does not resolve."""
    if int(importlib.metadata.version("pip").split(".")[0]) < 25:
        print("error: pip is older than 25; run .venv/bin/python .ci/resolve.py", file=sys.stderr)
        return 2
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        if error := build_wheels(Path(folder)):
            print(f"error: the wheels cannot be built: {error}", file=sys.stderr)
            return 1
        for python in pythons:
            found, error = resolve(python, Path(folder))
            shown = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
            print(f"{python}: {error or f'{len(found)} packages; {shown}'}", flush=True)
            failed |= bool(error)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PYTHONS)))
