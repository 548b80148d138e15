"""One run from its configuration to its results: train, then test."""

from __future__ import annotations

from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import with_keys
from octvideo.engine.datasets import read_run_data
from octvideo.engine.distributed import World
from octvideo.engine.evaluate import evaluate_network
from octvideo.engine.precision import has_bf16_kernels
from octvideo.engine.session import open_session
from octvideo.engine.sync_bn import synchronise_batch_norm
from octvideo.engine.train import train_network
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.signals import StopOnSignal

__all__ = ["run_experiment"]


def run_experiment(cfg: CfgNode, signals: StopOnSignal) -> bool:
    """Train and test as configured; all files are written to OUTPUT_DIR.

    Args:
        cfg: the resolved configuration.
        signals: an entered one. The run decides from when on it finishes its step before it stops.

    Returns:
        Whether all is done; False where a signal stopped the run in order, with a checkpoint where it was training.

    Raises:
        Stopped: a signal stopped the run before its first step.
        UserError: the user can fix the cause.
    """
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        raise UserError("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")
    with open_session(Path(cfg.OUTPUT_DIR), cfg.DEVICE, signals) as session:
        is_cpu = session.world.device.type == "cpu"
        if session.world.device.type != "cuda" and cfg.TRAIN.ENABLE and cfg.TRAIN.PRECISION == "fp16":
            raise UserError("TRAIN.PRECISION is fp16, which CUDA alone trains in: use bf16 or fp32")
        # Find mistakes before anything is written, and not after days of training.
        data = read_run_data(cfg, session.folder)
        used = {(cfg.DATA.TRAIN, data.train), (cfg.DATA.VAL, data.val), (cfg.DATA.TEST or cfg.DATA.VAL, data.test)}
        for source, passed_over in sorted({(key, index.passed_over) for key, index in used if index is not None}):
            if passed_over:
                session.log.say(f"{source}: {passed_over}")
        cfg = with_keys(cfg, {"MODEL.NUM_CLASSES": data.num_classes})
        if cfg.NUM_THREADS:
            torch.set_num_threads(cfg.NUM_THREADS)
        if is_cpu and cfg.TRAIN.PRECISION == "bf16" and not has_bf16_kernels():
            session.log.say("warning: this CPU has no bf16: it takes about ten times as long as TRAIN.PRECISION fp32")
        model = build_network(cfg, session.world)
        num_failed_train = 0
        if data.train is not None:
            trained = train_network(cfg, session, model, data)
            if not trained.finished:
                return False
            cfg, num_failed_train = trained.cfg, trained.num_failed
        return data.test is None or evaluate_network(cfg, session, model, data, num_failed_train)


def build_network(cfg: CfgNode, world: World) -> nn.Module:
    """Return the network of a configuration with its first weights, on its device."""
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg).to(world.device)
    if cfg.TRAIN.ENABLE and cfg.TRAIN.SYNC_BN and world.size > 1:
        model = synchronise_batch_norm(model, world.device)
    return channels_last(model) if cfg.MODEL.CONV_AS_2D else model
