"""Shipped configurations load; errors are one line that names the key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from octvideo.config import CfgNode, config_folder, find_config, get_defaults, load_cfg, save_cfg, with_keys
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


def test_keys_are_fewer_than_120() -> None:
    assert len(flat(get_defaults())) < 120


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_saved_config_loads_equal(file: Path, tmp_path: Path) -> None:
    cfg = load_cfg(file)
    save_cfg(cfg, tmp_path / "config.yaml")
    assert load_cfg(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_configs_have_their_classes(name: str) -> None:
    cfg = load_cfg(name)
    assert len(read_classes(cfg.DATA.CLASSES)) == cfg.MODEL.NUM_CLASSES == int(name[-8:-5])
    assert cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS == 30
    assert (cfg.OCTAVE.ALPHA > 0) == name.startswith("oct_")


@pytest.mark.parametrize("twin", TWINS, ids=[file.stem for file in TWINS])
def test_twins_differ_in_octave_keys_only(twin: Path) -> None:
    octave, vanilla = flat(load_cfg(twin)), flat(load_cfg(twin.parent / twin.name[4:]))
    different = [key for key in vanilla if vanilla[key] != octave[key]]
    assert different and all(key.startswith("OCTAVE.") for key in different)


def test_every_kinetics_config_has_a_twin() -> None:
    assert {file.name for file in TWINS} >= {name for name in KINETICS if name.startswith("oct_")}


def test_kinetics_600_differs_in_data_only() -> None:
    for name in KINETICS:
        if "k400" in name:
            small, large = flat(load_cfg(name)), flat(load_cfg(name.replace("k400", "k600")))
            different = {key for key in small if small[key] != large[key]}
            assert different == {"MODEL.NUM_CLASSES", "DATA.TRAIN", "DATA.VAL", "DATA.CLASSES"}


def test_slowfast_frames_are_the_papers() -> None:
    for name, slow, kernel in (("slowfast_k400", 4, 5), ("slowfast_8x8_k400", 8, 7)):
        cfg = load_cfg(name)
        assert cfg.DATA.NUM_FRAMES // cfg.MODEL.SLOWFAST.FRAME_RATIO == slow
        assert cfg.MODEL.SLOWFAST.FUSION_KERNEL == kernel


def test_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    assert "unknown key OCTAVE.ALPH; did you mean OCTAVE.ALPHA?" in message(None, ["OCTAVE.ALPH", "0.1"])
    file = tmp_path / "mine.yaml"
    file.write_text("DATA:\n  NUM_FRAME: 8\n")
    assert message(file) == f"{file}: unknown key DATA.NUM_FRAME; did you mean DATA.NUM_FRAMES?"


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("DATA.NUM_FRAMES", "eight", "int"), ("DATA.FLIP", "often", "float"), ("TRAIN.ENABLE", "1", "bool")],
)
def test_wrong_type_names_key_and_type(key: str, value: str, kind: str) -> None:
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
def test_value_out_of_bounds_names_the_bound(key: str, value: str, bound: str) -> None:
    text = message(None, [key, value])
    assert key in text and bound in text


@pytest.mark.parametrize(
    ("pairs", "fix"),
    [
        ("TRAIN.STEPS [1", "type int"),
        ("TRAIN.STEPS 2001-99-99", "type int"),
        (f"SOLVER.BASE_LR 1{'0' * 400}", "type float"),
        ("DATA.TRAIN_SHORT_SIDE [256]", "two whole numbers, each at least 1"),
        ("DATA.TRAIN_SHORT_SIDE [a,b]", "two whole numbers"),
        ("DATA.TRAIN_SHORT_SIDE [320,256]", "range"),
        ("OCTAVE.STAGES [[2]]", "a list of whole numbers, each between 2 and 5"),
        ("OCTAVE.STAGES [1]", "between 2 and 5"),
        ("TRAIN.RECOMPUTE [[2]]", "between 2 and 5"),
        ("MODEL.BLOCKS [a,b,c,d]", "four whole numbers"),
        ("MODEL.BLOCKS [1.5,1,1,1]", "four whole numbers"),
        ("MODEL.BLOCKS [True,1,1,1]", "four whole numbers"),
        ("MODEL.BLOCKS [0,0,0,0]", "at least 1"),
        ("MODEL.BLOCKS [1,1,1]", "four whole numbers"),
        ("MODEL.NONLOCAL [1,2,3,4]", "four lists of whole numbers"),
        ("MODEL.NONLOCAL [[[1]],[],[],[]]", "four lists of whole numbers"),
        ("MODEL.NONLOCAL [[9],[],[],[]]", "MODEL.BLOCKS ([3, 4, 6, 3])"),
        ("MODEL.NONLOCAL [[-1],[],[],[]]", "at least 0"),
        ("MODEL.TEMPORAL_KERNELS [3,3,3,3]", "[] or four non-empty lists of odd numbers"),
        ("MODEL.TEMPORAL_KERNELS [[-1],[1],[1],[1]]", "at least 1"),
        ("MODEL.TEMPORAL_KERNELS [[2],[1],[1],[1]]", "odd numbers"),
        ("MODEL.TEMPORAL_KERNELS [[],[1],[1],[1]]", "non-empty"),
        ("MODEL.STEM_KERNEL [a,b,c]", "[] or three odd numbers, each at least 1"),
        ("MODEL.STEM_KERNEL [-1,3,3]", "at least 1"),
        ("MODEL.STEM_TEMPORAL_STRIDE 0", "at least 1"),
        ("MODEL.DROPOUT 2", "between 0 and 1"),
        ("MODEL.DROPOUT -1", "between 0 and 1"),
        ("MODEL.SLOWFAST.FUSION_KERNEL 0", "an odd number, at least 1"),
        ("MODEL.SLOWFAST.FUSION_KERNEL 4", "an odd number"),
        ("MODEL.SLOWFAST.FUSION_RATIO 0", "at least 1"),
        ("MODEL.SLOWFAST.SLOW_FRAMES all", "spread, every"),
        ("DATA.MEAN [a,b,c]", "three numbers, each between 0 and 1"),
        ("DATA.MEAN [0.1,0.2]", "three numbers"),
        ("DATA.MEAN [1]", "three numbers"),
        ("DATA.STD [0,0,0]", "at least 0.001"),
        ("DATA.COLOR_JITTER -1", "at least 0"),
        ("DATA.ITEM_TIMEOUT .inf", "at least 0"),
        ("DATA.ITEM_TIMEOUT .nan", "at least 0"),
        ("DATA.RETRIES -1", "at least 0"),
        ("DATA.SAMPLING_RATE 0", "at least 1 (temporal stride between sampled frames)"),
        ("SEED -1", "between 0 and"),
        ("TRAIN.LABEL_SMOOTHING 2", "between 0 and 1"),
        ("TRAIN.LABEL_SMOOTHING -0.1", "between 0 and 1"),
        ("TRAIN.INFLATE x", "mean, centre"),
        ("TRAIN.CLIP_GRAD_NORM -1", "at least 0"),
        ("TRAIN.EVAL_EVERY -1", "at least 0"),
        ("TRAIN.EMA 1", "at least 0 and below 1"),
        ("SOLVER.BASE_LR -1", "at least 0"),
        ("SOLVER.BASE_BATCH_SIZE -4", "at least 0"),
        ("SOLVER.WEIGHT_DECAY -1", "at least 0"),
        ("SOLVER.WARMUP_STEPS -5", "at least 0"),
        ("SOLVER.WARMUP_START -1", "between 0 and 1"),
        ("SOLVER.MILESTONES [0.7,0.5]", "larger than the one before"),
        ("SOLVER.MILESTONES [2.0]", "below 1"),
        ("DATA.NUM_FRAMES 2147483648", "below 2^31"),
        ("TRAIN.EPOCHS 1e308", "below 1e+09"),
        ("TRAIN.MIXUP 1e-300", "0 or at least 1e-6"),
        ("DATA.RANDOM_RESIZED_CROP [0.1,1,0.5,.inf]", "a range of areas"),
        ("MODEL.BLOCKS [1,1,1,100000000000000000000]", "below 2^31"),
        ("TEST.SCALES [0]", "a list of whole numbers, each at least 1"),
    ],
)
def test_invalid_value_names_key_and_fix(pairs: str, fix: str) -> None:
    text = message(None, pairs.split())
    assert text.startswith(("overrides: " if "of type" in text else "") + pairs.split()[0]) and fix in text


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"", "lines such as"),
        (b"- 1\n- 2\n", "lines such as"),
        (b"text", "lines such as"),
        (b"about _BASE_", "lines such as"),
        (b"3", "lines such as"),
        (b"\xff\xfe\x00\x81", "cannot be read"),
        (b"_BASE_: 3\n", "lines such as"),
        (b"_BASE_: mine.yaml\n", "leads back to itself"),
        (b"_BASE_: other.yaml\n", "other.yaml"),
        (b"DATA: 2001-99-99\n", "cannot be read"),
        (b"DATA: 5\n", "DATA is a group of keys; set one of them, such as DATA.TRAIN"),
        (b"TRAIN:\nTEST:\n  ENABLE: True\n", "TRAIN is a group of keys"),
        (b"TRAIN: &x\n  STEPS: *x\n", "nested too deeply"),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, content: bytes, fix: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    text = message(file)
    assert text.startswith(f"{file}: ") and fix in text


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("TRAIN:\n  STEPS: 1\nDATA:\n  FLIP: 0.0\nTRAIN:\n  EPOCHS: 2.0\n")
    (tmp_path / "child.yaml").write_text("_BASE_: mine.yaml\nDATA:\n  FLIP: 1.0\n")
    for name in ("mine.yaml", "child.yaml"):
        assert message(tmp_path / name) == f"{tmp_path}/mine.yaml: duplicate key TRAIN (lines 1 and 5)"


def test_invalid_output_folder_is_refused() -> None:
    assert "name in UTF-8" in message(None, ["OUTPUT_DIR", "a\udcff"])
    assert message(None, ["OUTPUT_DIR", ""]) == "OUTPUT_DIR is empty; give a folder for the files of a run"


def test_file_may_have_dotted_keys(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("DATA.NUM_FRAMES: 4\n")
    assert load_cfg(tmp_path / "mine.yaml").DATA.NUM_FRAMES == 4


def test_empty_class_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(UserError, match=r"classes\.txt: no class names; write one per line"):
        read_classes(tmp_path / "classes.txt")


def test_override_numbers_are_parsed() -> None:
    cfg = load_cfg(None, ["SOLVER.BASE_LR", "1e-3", "OCTAVE.ALPHA", "1", "MODEL.BLOCKS", "[2,2,2,2]"])
    assert (cfg.SOLVER.BASE_LR, cfg.OCTAVE.ALPHA, cfg.MODEL.BLOCKS) == (1e-3, 1.0, [2, 2, 2, 2])


def test_missing_file_suggests_the_nearest() -> None:
    assert "did you mean oct_i3d_k400.yaml?" in message("oct_i3d_k40.yaml")
    assert "no such file" in message("nonexistent.yaml")
    text = message("i3d.yaml")
    assert "quickstart" in text and "weizmann" in text and "give a path" in text


def test_broken_yaml_and_missing_value_are_named(tmp_path: Path) -> None:
    assert "OCTAVE.ALPHA has no value" in message(None, ["OCTAVE.ALPHA"])
    file = tmp_path / "broken.yaml"
    file.write_text("MODEL: [\n")
    assert str(file) in message(file)
    (tmp_path / "child.yaml").write_text("_BASE_: broken.yaml\n")
    assert f'"{file}", line 2' in message(tmp_path / "child.yaml")  # the file that has the fault


def test_loaded_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load_cfg().SEED = 1


def test_with_keys_changes_a_copy() -> None:
    cfg = load_cfg()
    changed = with_keys(cfg, {"OCTAVE.ALPHA": 0.5, "NUM_WORKERS": 1})
    assert (changed.OCTAVE.ALPHA, changed.NUM_WORKERS, changed.is_frozen()) == (0.5, 1, True)
    assert cfg == load_cfg()


def test_config_is_found_without_suffix() -> None:
    assert find_config("oct_i3d_k400") == find_config("kinetics400/oct_i3d_k400.yaml")
