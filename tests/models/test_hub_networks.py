"""X3D, CSN and R(2+1)D: PyTorchVideo's networks, and their octave twins."""

import pytest
import torch
from pytorchvideo.models import hub

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model

FAMILIES = ("x3d_xs", "csn_r101", "r2plus1d_r50")


def build(name: str, *keys: str) -> torch.nn.Module:
    small = "DATA.NUM_FRAMES 4 DATA.TRAIN_CROP 32".split()
    torch.manual_seed(0)
    return build_model(load_cfg(None, ["MODEL.ARCH", name, *small, *keys]))


def slim(name: str) -> list[str]:
    """Fewer channels; X3D has few."""
    return [] if name.startswith("x3d") else ["MODEL.WIDTH", "8"]


@pytest.mark.parametrize(
    ("name", "frames", "crop"), [("x3d_xs", 4, 160), ("csn_r101", 8, 193), ("r2plus1d_r50", 4, 200)]
)
def test_vanilla_is_bit_identical_to_pytorchvideo(name: str, frames: int, crop: int) -> None:
    keys = ["DATA.NUM_FRAMES", str(frames), "DATA.TRAIN_CROP", str(crop), "DATA.TRAIN_SHORT_SIDE", "[200,200]"]
    own, published = build(name, *keys), getattr(hub, name)(head_activation=None)
    published.load_state_dict(own.state_dict())
    if name != "x3d_xs":
        published.blocks[-1].pool.kernel_size = (1, 7, 7)  # of these few frames
    clip = torch.randn(1, 3, frames, crop, crop)
    with torch.inference_mode():
        assert torch.equal(own.eval()(clip), published.eval()(clip))


def check_learns(model: torch.nn.Module) -> None:
    clips, labels = torch.randn(2, 3, 4, 32, 32), torch.tensor([0, 2])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.inference_mode():
        assert not torch.allclose(model(clips).sum(1), torch.ones(2))  # logits, in both modes
        logits = model.eval()(torch.randn(1, 3, 8, 48, 40))  # another size
    assert logits.shape == (1, 3)
    assert not torch.allclose(logits.sum(), torch.ones(()))


def check_2d_agrees(model: torch.nn.Module, name: str, *keys: str) -> None:
    flat = build(name, *keys, "MODEL.CONV_AS_2D", "True").eval()
    assert list(model.state_dict()) == list(flat.state_dict())
    flat.load_state_dict(model.state_dict())
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(flat(clip), model.eval()(clip), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_vanilla_network_learns(name: str) -> None:
    keys = [*slim(name), "MODEL.NUM_CLASSES", "3", "MODEL.DROPOUT", "0"]
    model = build(name, *keys)
    check_learns(model)
    check_2d_agrees(model, name, *keys)


@pytest.mark.parametrize("name", ["x3d_xs", *(pytest.param(name, marks=pytest.mark.full) for name in FAMILIES[1:])])
def test_octave_twin_has_vanilla_state_and_learns(name: str) -> None:
    keys = [*slim(name), "MODEL.NUM_CLASSES", "3", "MODEL.DROPOUT", "0"]
    vanilla, octave = (build(name, *keys, "OCTAVE.ALPHA", alpha) for alpha in ("0", "0.25"))
    states = vanilla.state_dict(), octave.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])  # the same initial weights too
    convs, pairs = (
        sum(isinstance(layer, torch.nn.Conv3d) and getattr(layer, "alpha_in", 1) > 0 for layer in net.modules())
        for net in (vanilla, octave)
    )
    assert pairs > 0.45 * convs
    check_learns(octave)
    if name == "x3d_xs":
        check_2d_agrees(octave, name, *keys, "OCTAVE.ALPHA", "0.25")


@pytest.mark.parametrize(
    "key", ["MODEL.BLOCKS [3,4,6,4]", "MODEL.WIDTH 32", "OCTAVE.STAGES [2,3]", "TRAIN.RECOMPUTE [3]"]
)
def test_unused_keys_are_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key.split()[0]} is set, but x3d_s does not use it"):
        build("x3d_s", *key.split())
