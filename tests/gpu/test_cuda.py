"""What a CUDA device must give: the CPU's results, a step of training in every precision, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.config import load_cfg
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.models import build_model
from octvideo.octave import fold_batch_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

_SMALL = ["MODEL.BLOCKS", "[1,1,1,1]", "MODEL.WIDTH", "16", "MODEL.NUM_CLASSES", "4", "DATA.TRAIN_CROP", "64"]


def network(arch: str = "i3d", alpha: float = 0.25) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(load_cfg(None, [*_SMALL, "MODEL.ARCH", arch, "OCTAVE.ALPHA", str(alpha)]))


@pytest.mark.parametrize("arch", ["c2d", "i3d", "slowfast"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5])
def test_the_logits_are_the_cpu_s(arch: str, alpha: float) -> None:
    model = network(arch, alpha).eval()
    clip = torch.randn(2, 3, 8, 64, 64)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected = model(clip)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            found = model.cuda()(clip.cuda().contiguous(memory_format=layout))
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
        folded = fold_batch_norm(model)(clip.cuda())
        torch.testing.assert_close(folded.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_lowers_the_loss(dtype: torch.dtype) -> None:
    model = network().cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    generator = torch.Generator("cuda").manual_seed(0)
    clips = torch.randn(4, 3, 8, 64, 64, device="cuda", generator=generator)
    labels = torch.arange(4, device="cuda")
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
            logits = model(clips)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_compiled() -> None:
    model = network().cuda().eval()
    clip = torch.randn(1, 3, 8, 64, 64, device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(clip), model(clip), rtol=1e-2, atol=1e-2)


def test_augmentation_depends_on_the_seed_alone() -> None:
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    seeds = torch.tensor([5, 6])
    augment = Augmentation(num_ops=2, magnitude=9, erasing=1.0)
    first = augment.frames(frames.cuda(), seeds)
    torch.rand(7, device="cuda")
    assert torch.equal(augment.frames(frames.cuda(), seeds), first) and first.is_cuda
    clips = torch.randn(2, 3, 4, 32, 32, device="cuda")
    mixed, targets = Mixing(mixup=0.2, cutmix=1.0, num_classes=3)(clips, torch.tensor([0, 2], device="cuda"), 1)
    assert mixed.is_cuda and torch.allclose(targets.sum(1).cpu(), torch.ones(2))


def test_a_run(video_folder: Path, tmp_path: Path) -> None:
    paths = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val")]
    keys = ["OCTAVE.ALPHA", "0.25", "TRAIN.STEPS", "4", "TRAIN.BATCH_SIZE", "4", "TRAIN.PRECISION", "bf16"]
    sizes = ["DATA.TRAIN_SHORT_SIDE", "[64,72]", "DATA.TEST_CROP", "64", "DATA.TEST_SHORT_SIDE", "64"]
    cfg = tmp_path / "cfg.yaml"
    cfg.write_text("MODEL:\n  ARCH: i3d\n")
    overrides = [*_SMALL, *paths, *keys, *sizes, "DEVICE", "cuda", "OUTPUT_DIR", str(tmp_path / "out")]
    assert run(main, ["--cfg", str(cfg), *overrides]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_failed"] == 0
