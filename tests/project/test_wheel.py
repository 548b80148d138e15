"""The sdist and the wheel build. Without a checkout the wheel finds its configurations and classes, and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import octvideo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it.

    The source is a copy, so that nothing of an earlier build gets in, and none is left in the checkout.
    """
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    ours = {line.split()[-1] for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line.startswith("graft")}
    for name in {"octvideo", *(name.split("/")[0] for name in ours)}:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel, and the dependencies of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    install = ["--python", str(binaries / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, env=environment)
    # After the installation: pip must not take an octvideo of this environment for that one's.
    packages = next(folder.rglob("site-packages"))
    (packages / "dependencies.pth").write_text("\n".join({sysconfig.get_path(n) for n in ("purelib", "platlib")}))
    return binaries


def call(installed: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment away from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [installed / command[0], *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_wheel_has_code_configs_and_assets(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "octvideo").rglob("*.py")}
    configs = {f"octvideo/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assets = {str(path.relative_to(ROOT)) for path in (ROOT / "octvideo" / "assets").iterdir()}
    assert names >= code | configs | assets | {"octvideo/py.typed"}
    ours = ("octvideo/", f"octvideo-{octvideo.__version__}.dist-info/")
    assert not {name for name in names if not name.startswith(ours)}
    assert any(name.endswith("LICENSE") for name in names)


def test_editable_installation_is_a_path(built: Path, tmp_path: Path) -> None:
    """Not a finder, for which a clone in the present folder would hide the package."""
    build = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=built / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    archive = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    (path,) = (name for name in archive.namelist() if ".dist-info/" not in name)
    assert path.endswith(".pth") and Path(archive.read(path).decode().strip()) == (built / "source").resolve()


def test_sdist_has_tests_and_docs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = (
        "setup.py README.md CHANGELOG.md CITATION.cff hubconf.py Makefile tests/conftest.py docs/index.md docs/conf.py"
    )
    assert set(wanted.split()) <= names
    assert "configs/kinetics400/oct_i3d_k400.yaml" in names and not any("__pycache__" in name for name in names)


def test_twine_accepts_both(built: Path) -> None:
    files = [str(path) for path in (*built.glob("*.whl"), *built.glob("*.tar.gz"))]
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_citation_has_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == octvideo.__version__ and "Drop an Octave" in citation["references"][0]["title"]
    assert f"## {octvideo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_metadata_has_version_and_pythons(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(f"octvideo-{octvideo.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {octvideo.__version__}\n" in text
    python = re.search(r"^Requires-Python: (.*)$", text, re.MULTILINE)
    assert python and python[1] == ">=3.10"  # no upper bound: it would refuse Pythons that work
    assert "\nRequires-Dist: av>=17.1\n" in text  # older ones read wrong colours, or crash
    assert all(f"\nProvides-Extra: {extra}\n" in text for extra in ("export", "app", "docs", "dev"))


def test_wheel_imports_from_anywhere(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib, json, pkgutil, octvideo, octvideo.config, octvideo.data.index as index
names = [m.name for m in pkgutil.walk_packages(octvideo.__path__, 'octvideo.') if not m.name.endswith('__main__')]
for name in names:
    importlib.import_module(name)
cfg = octvideo.config.load_cfg('oct_i3d_k400.yaml')
classes = {n: len(index.read_classes(f'kinetics{n}_classes.txt')) for n in (400, 600)}
print(json.dumps([octvideo.__file__, str(octvideo.config.find_config('oct_i3d_k400.yaml')), cfg.OCTAVE.ALPHA, classes]))
"""
    done = call(installed, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, config, alpha, classes = json.loads(done.stdout)
    home = installed.parent.resolve()
    assert Path(package).resolve().is_relative_to(home) and Path(config).resolve().is_relative_to(home)
    assert (alpha, classes) == (0.1, {"400": 400, "600": 600})


def test_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    done = call(installed, "octvideo", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"octvideo {octvideo.__version__}\n"), done.stderr
    done = call(installed, "octvideo", "run-net", "--cfg", "nonexistent.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "nonexistent.yaml" in done.stderr
