"""A small octave network whose weights are not those of the initialisation."""

from __future__ import annotations

from pathlib import Path

import torch

from octvideo.config import CfgNode, load_cfg
from octvideo.models import build_model

CLASSES = ["bend", "jack", "jump", "run", "walk", "wave"]


def small_cfg(*overrides: str) -> CfgNode:
    """Returns the configuration with overrides."""
    sizes = "MODEL.WIDTH 16 MODEL.BLOCKS [1,1,1,1] DATA.TRAIN_CROP 64 DATA.TRAIN_SHORT_SIDE [64,80]"
    test = "DATA.TEST_CROP 64 DATA.TEST_SHORT_SIDE 64 DATA.SAMPLING_RATE 2 TEST.NUM_CLIPS 3 TEST.MAX_VIEWS 4"
    names = f"{sizes} {test} OCTAVE.ALPHA 0.25 MODEL.NUM_CLASSES {len(CLASSES)}"
    return load_cfg(None, [*names.split(), *overrides])


def save_checkpoint(cfg: CfgNode, path: Path) -> Path:
    """Writes a checkpoint with random weights and norm statistics: every path of the network shows in the result."""
    torch.manual_seed(0)
    model = build_model(cfg)
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.1, 0.3)
        elif value.dim() == 1 and value.is_floating_point() and name.endswith("weight"):
            value.uniform_(0.5, 1.0)  # some norms start at zero, which would switch their branch off
    model.load_state_dict(state)  # an octave norm keeps its groups apart: its entries are copies
    # Logits of moderate size, so that no probability is 0 or 1.
    with torch.inference_mode():
        logits = model.eval()(torch.randn(4, 3, 8, 64, 64))
    next(value for name, value in state.items() if name.endswith("proj.weight")).div_(logits.std())
    torch.save({"model": state, "config": cfg.dump(), "classes": CLASSES, "version": 1}, path)
    return path
