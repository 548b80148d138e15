"""Every shipped configuration loads; what is wrong in one ends in a line that names the key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from octvideo.config import CfgNode, config_folder, find_config, get_defaults, load_cfg, save_cfg
from octvideo.data.index import read_classes
from octvideo.errors import UserError

FILES = sorted(config_folder().rglob("*.yaml"))
NAMES = [str(file.relative_to(config_folder())) for file in FILES]
TWINS = [file for file in FILES if file.name.startswith("oct_") and (file.parent / file.name[4:]).is_file()]
KINETICS = [
    f"{octave}{name}_k{classes}.yaml"
    for classes in (400, 600)
    for octave in ("", "oct_")
    for name in ("c2d", "i3d", "i3d_nln", "slowfast", "slowfast_8x8")
]


def flat(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    """``{"MODEL.ARCH": "i3d", ...}``."""
    found: dict[str, object] = {}
    for key, value in cfg.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return found


def message(*arguments: object) -> str:
    """The one line that ``load_cfg`` ends in."""
    with pytest.raises(UserError) as error:
        load_cfg(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_there_are_fewer_than_120_keys() -> None:
    assert len(flat(get_defaults())) < 120


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_configuration_loads_and_comes_back_from_its_resolved_file(file: Path, tmp_path: Path) -> None:
    cfg = load_cfg(file)
    save_cfg(cfg, tmp_path / "config.yaml")
    assert load_cfg(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_configurations_are_found_by_bare_name_and_know_their_classes(name: str) -> None:
    cfg = load_cfg(name)
    assert len(read_classes(cfg.DATA.CLASSES)) == cfg.MODEL.NUM_CLASSES == int(name[-8:-5])
    assert cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS == 30
    assert (cfg.OCTAVE.ALPHA > 0) == name.startswith("oct_")


@pytest.mark.parametrize("twin", TWINS, ids=[file.stem for file in TWINS])
def test_a_twin_differs_in_octave_keys_alone(twin: Path) -> None:
    octave, vanilla = flat(load_cfg(twin)), flat(load_cfg(twin.parent / twin.name[4:]))
    different = [key for key in vanilla if vanilla[key] != octave[key]]
    assert different and all(key.startswith("OCTAVE.") for key in different)


def test_every_kinetics_network_has_a_twin() -> None:
    assert {file.name for file in TWINS} >= {name for name in KINETICS if name.startswith("oct_")}


def test_kinetics_600_differs_from_400_in_its_data_alone() -> None:
    for name in KINETICS:
        if "k400" in name:
            small, large = flat(load_cfg(name)), flat(load_cfg(name.replace("k400", "k600")))
            different = {key for key in small if small[key] != large[key]}
            assert different == {"MODEL.NUM_CLASSES", "DATA.TRAIN", "DATA.VAL", "DATA.CLASSES"}


def test_slowfast_pathways_see_the_papers_frames() -> None:
    for name, slow, kernel in (("slowfast_k400", 4, 5), ("slowfast_8x8_k400", 8, 7)):
        cfg = load_cfg(name)
        assert cfg.DATA.NUM_FRAMES // cfg.MODEL.SLOWFAST.FRAME_RATIO == slow
        assert cfg.MODEL.SLOWFAST.FUSION_KERNEL == kernel


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    assert "unknown key OCTAVE.ALPH; did you mean OCTAVE.ALPHA?" in message(None, ["OCTAVE.ALPH", "0.1"])
    file = tmp_path / "mine.yaml"
    file.write_text("DATA:\n  NUM_FRAME: 8\n")
    assert message(file) == f"{file}: unknown key DATA.NUM_FRAME; did you mean DATA.NUM_FRAMES?"


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("DATA.NUM_FRAMES", "eight", "int"), ("DATA.FLIP", "often", "float"), ("TRAIN.ENABLE", "1", "bool")],
)
def test_a_wrong_type_names_key_value_and_type(key: str, value: str, kind: str) -> None:
    text = message(None, [key, value])
    assert key in text and value in text and kind in text


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("OCTAVE.ALPHA", "1.5", "between 0 and 1"),
        ("DATA.NUM_FRAMES", "0", "at least 1"),
        ("MODEL.ARCH", "x3d", "c2d, i3d"),
        ("TEST.NUM_CROPS", "2", "1, 3"),
        ("DATA.TEST_CROP", "300", "DATA.TEST_SHORT_SIDE"),
    ],
)
def test_a_value_out_of_bounds_names_the_bound(key: str, value: str, bound: str) -> None:
    text = message(None, [key, value])
    assert key in text and bound in text


def test_numbers_of_the_command_line() -> None:
    cfg = load_cfg(None, ["SOLVER.BASE_LR", "1e-3", "OCTAVE.ALPHA", "1", "MODEL.BLOCKS", "[2,2,2,2]"])
    assert (cfg.SOLVER.BASE_LR, cfg.OCTAVE.ALPHA, cfg.MODEL.BLOCKS) == (1e-3, 1.0, [2, 2, 2, 2])


def test_a_missing_file_names_the_nearest_and_an_ambiguous_name_all() -> None:
    assert "did you mean oct_i3d_k400.yaml?" in message("oct_i3d_k40.yaml")
    assert "no such file" in message("nonexistent.yaml")
    text = message("i3d.yaml")
    assert "quickstart" in text and "weizmann" in text and "give a path" in text


def test_a_key_without_value_and_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    assert "OCTAVE.ALPHA has no value" in message(None, ["OCTAVE.ALPHA"])
    file = tmp_path / "broken.yaml"
    file.write_text("MODEL: [\n")
    assert str(file) in message(file)


def test_a_loaded_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load_cfg().SEED = 1


def test_the_name_may_be_given_without_suffix_and_with_folder() -> None:
    assert find_config("oct_i3d_k400") == find_config("kinetics400/oct_i3d_k400.yaml")
