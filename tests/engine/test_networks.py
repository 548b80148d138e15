from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import CLASSES, small_cfg

from octvideo.config import save_cfg
from octvideo.engine.networks import default_checkpoint, load_network
from octvideo.errors import UserError
from octvideo.models import zoo


def test_checkpoint_carries_configuration_and_classes(checkpoint: Path) -> None:
    network = load_network(checkpoint)
    assert network.classes == tuple(CLASSES)
    assert network.clip_shape == (8, 64, 64)
    assert not network.model.training
    assert network.cfg.OCTAVE.ALPHA == 0.25


@pytest.mark.parametrize("key", [None, "model_state", "state_dict"])
def test_bare_weights_need_a_configuration(checkpoint: Path, tmp_path: Path, key: str | None) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    file, cfg = tmp_path / "bare.pt", tmp_path / "small.yaml"
    torch.save({key: state} if key else {f"module.{name}": value for name, value in state.items()}, file)
    with pytest.raises(UserError, match="--cfg"):
        load_network(file)
    save_cfg(small_cfg(), cfg)
    network = load_network(file, cfg)
    assert network.classes == tuple("012345")
    assert all(torch.equal(value, state[name]) for name, value in network.model.state_dict().items())


def test_weights_of_another_network_are_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="another network"):
        load_network(checkpoint, small_cfg("MODEL.BLOCKS", "[1,2,1,1]"))
    with pytest.raises(UserError, match="check --cfg"):
        load_network(checkpoint, small_cfg("MODEL.WIDTH", "8"))
    with pytest.raises(UserError, match="NUM_CLASSES"):
        load_network(checkpoint, small_cfg("MODEL.NUM_CLASSES", "9"))


def test_unreadable_checkpoints_are_user_errors(tmp_path: Path) -> None:
    file = tmp_path / "bad.pt"
    with pytest.raises(UserError, match="no such checkpoint"):
        load_network(file)
    for content in (b"", b"text", bytes(100)):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pt: not a readable checkpoint") as caught:
            load_network(file)
        assert "\n" not in str(caught.value)
    for zipped in (True, False):
        torch.save({"a": torch.zeros(1000)}, file, _use_new_zipfile_serialization=zipped)
        content = file.read_bytes()
        for length in (3000, 100):
            file.write_bytes(content[:length])
            with pytest.raises(UserError, match=r"bad\.pt: not a readable checkpoint \((.*damaged|unexpected EOF)"):
                load_network(file)
    torch.save(torch.zeros(2), file)
    with pytest.raises(UserError, match="no state dict"):
        load_network(file)
    torch.save({"model": {"a": torch.zeros(1)}, "config": "NOSUCH: 1", "version": 1}, file)
    with pytest.raises(UserError, match=r"bad\.pt.*unknown key NOSUCH"):
        load_network(file)


def test_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="not a readable"):
        load_network(tmp_path / "code.pt")


def test_missing_default_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_ASSETS", tmp_path)
    with pytest.raises(UserError, match="--checkpoint"):
        default_checkpoint()
    (tmp_path / "oct_i3d_weizmann.pt").touch()
    assert default_checkpoint().parent == tmp_path
