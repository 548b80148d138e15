"""The zoo's page: that it is what its script writes, and that what it says about weights can be set."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from octvideo.config import load_cfg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    """benchmarks/zoo.py as a module."""
    spec = importlib.util.spec_from_file_location("zoo", ROOT / "benchmarks" / "zoo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _marked(heading: str) -> object:
    # To make a network octave by tracing takes seconds, and Kinetics-400 has ten of these.
    return pytest.param(heading, marks=pytest.mark.full if heading == "Kinetics-400" else ())


@pytest.mark.parametrize(
    "heading",
    [*map(_marked, ("Kinetics-400", "Kinetics-600", "ImageNet", "Weizmann", "Quickstart", "Hard rendered set"))],
)
def test_tables_are_up_to_date(zoo: ModuleType, heading: str) -> None:
    (entry,) = [entry for entry in zoo.SECTIONS if entry[0] == heading]
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert "\n".join(zoo.section(*entry)) in text, "run: python benchmarks/zoo.py"


def test_weights_are_up_to_date(zoo: ModuleType) -> None:
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert text.endswith("\n".join(zoo.weights_section()) + "\n"), "run: python benchmarks/zoo.py"


def test_rows_and_configs_match(zoo: ModuleType) -> None:
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    configs = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").glob("*/*.yaml")}
    assert configs and [name for name in configs if text.count(f"| `{name}` |") != 1] == []
    assert {f"{name}.yaml" for name in (*zoo.PAPER, *zoo.OURS)} <= configs


def test_weights_name_existing_keys_and_configs(zoo: ModuleType) -> None:
    names = [str(path.relative_to(ROOT / "configs"))[:-5] for path in (ROOT / "configs").glob("*/*.yaml")]
    for weights in zoo.WEIGHTS:
        fitting = [name for name in names if weights.fit(name)]
        assert bool(fitting) == bool(weights.networks), weights
        for name in fitting or ["kinetics400/c2d_k400"]:
            load_cfg(f"{name}.yaml", weights.keys.split())
    octave = [weights for weights in zoo.WEIGHTS if weights.source in ("d-li14", "the paper's authors")]
    assert len(octave) == 9
    assert [name for weights in octave for name in names if weights.fit(name) and "oct_" not in name] == []


def test_authors_weights_have_their_configs_alpha(zoo: ModuleType) -> None:
    for weights in (weights for weights in zoo.WEIGHTS if weights.source == "the paper's authors"):
        alpha = float(weights.name.rpartition("alpha-")[2].rpartition(".")[0])
        assert load_cfg(f"imagenet/{weights.networks[0]}_in1k.yaml").OCTAVE.ALPHA == alpha
