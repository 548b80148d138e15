"""Training as a configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.data import Failure, VideoIndex, build_test_loader, build_train_loader, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.dataset import none_is_read
from octvideo.data.mixing import Mixing
from octvideo.engine.averaging import precise_batch_norm
from octvideo.engine.checkpoints import newest_checkpoint, remove_leftovers, save_checkpoint, set_aside
from octvideo.engine.datasets import RunData, Weights
from octvideo.engine.distributed import World
from octvideo.engine.hooks import Checkpointing, Evaluation, Logging, StopOnSignal
from octvideo.engine.logging import RunLog
from octvideo.engine.metrics import top_k_accuracy
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.engine.tester import TestResult, check_failures, test
from octvideo.engine.trainer import Trainer, autocast
from octvideo.errors import UserError
from octvideo.models import Stage
from octvideo.models.checkpoints import fit, local_file, read_checkpoint, state_of

__all__ = ["scores", "train"]


def train(cfg: CfgNode, model: nn.Module, data: RunData, folder: Path, world: World, log: RunLog) -> tuple[int, int]:
    """Trains ``model``, which ends as what is to be tested, and leaves its checkpoints in the folder.

    The labels in ``data`` are put in the order of the checkpoint where the training resumes.

    Returns:
        0 when all steps are done, 128 + signal where a signal stopped it (a checkpoint is written then); and the
        number of videos that could not be read.

    Raises:
        UserError: what the user can fix.
    """
    with StopOnSignal() as signals:
        return _train(cfg, model, data, folder, world, log, signals)


def _train(
    cfg: CfgNode, model: nn.Module, data: RunData, folder: Path, world: World, log: RunLog, signals: StopOnSignal
) -> tuple[int, int]:
    index = data.train
    assert index is not None
    cfg = _in_steps(cfg, len(index))
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.recompute = stage.number in cfg.TRAIN.RECOMPUTE
    checkpoints = folder / "checkpoints"
    if world.is_main:
        remove_leftovers(checkpoints)
        if not cfg.TRAIN.RESUME and (earlier := set_aside(checkpoints)):
            log.say(f"TRAIN.RESUME is False: the checkpoints of an earlier run are now in {earlier}")
    extra = {"config": cfg.dump(), "classes": index.classes}
    logging = Logging(log, cfg.TRAIN.LOG_EVERY)
    hooks: list[Any] = [logging]
    evaluation = None
    if (val := data.val) is not None:
        if not (val.labels >= 0).any():
            raise UserError(
                f"DATA.VAL ({cfg.DATA.VAL}): no video has a label: give it labels, or set TRAIN.EVAL_EVERY 0"
            )
        val_loader = build_test_loader(
            cfg,
            split="val",
            index=val,
            rank=world.rank,
            world_size=world.size,
            num_clips=cfg.TRAIN.EVAL_CLIPS,
            num_crops=cfg.TRAIN.EVAL_CROPS,
            num_videos=cfg.TRAIN.EVAL_VIDEOS,
        )

        def evaluate() -> tuple[float, int]:
            _refresh(cfg, trainer, index)
            result = scores(cfg, trainer.result, val_loader, world)
            check_failures(result, cfg.DATA.MAX_FAILED)
            return _top1(result, val), len(result.failed)

        evaluation = Evaluation(evaluate, cfg.TRAIN.EVAL_EVERY, checkpoints / "best.pt", log, extra)
        hooks.append(evaluation)
    hooks.append(Checkpointing(checkpoints, cfg.TRAIN.CHECKPOINT_EVERY, cfg.TRAIN.KEEP_CHECKPOINTS, extra))
    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        build_schedule(cfg),
        steps=cfg.TRAIN.STEPS,
        world=world,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        precision=cfg.TRAIN.PRECISION,
        accumulate=cfg.TRAIN.ACCUMULATE,
        clip_grad_norm=cfg.TRAIN.CLIP_GRAD_NORM,
        label_smoothing=cfg.TRAIN.LABEL_SMOOTHING,
        augment=_augmentation(cfg),
        mix=_mixing(cfg),
        max_failed=cfg.DATA.MAX_FAILED,
        path_of=index.path,
        seed=cfg.SEED,
        ema=cfg.TRAIN.EMA,
        asked_to_stop=signals.asked,
        hooks=hooks,
    )
    if cfg.TRAIN.COMPILE:
        if cfg.TRAIN.COMPILE not in torch.compiler.list_backends(exclude_tags=()):
            backends = ", ".join(torch.compiler.list_backends())
            raise UserError(f"TRAIN.COMPILE is {cfg.TRAIN.COMPILE}: it must be one of {backends}, or empty")
        model.compile(backend=cfg.TRAIN.COMPILE)
    _start_from(cfg, trainer, data, checkpoints, log, evaluation)
    extra["classes"] = index.classes  # in the order of the checkpoint, where there is one
    if not (index.labels == 0).any() and not Path(cfg.DATA.TRAIN).is_dir():
        name = index.classes[0]
        log.say(f"warning: DATA.TRAIN ({cfg.DATA.TRAIN}) has no video with label 0 ({name}); labels count from 0")
    log.say(
        f"training on {len(index)} videos of {len(index.classes)} classes, {world.size} process(es) on "
        f"{world.device.type}; {cfg.TRAIN.STEPS} steps, {_passes(cfg, len(index)):.3g} passes over them; {_rate(cfg)}"
    )
    loader = build_train_loader(cfg, index=index, rank=world.rank, world_size=world.size, start_step=trainer.step)
    trains = trainer.step < cfg.TRAIN.STEPS
    try:
        if trains:
            trainer.train(iter(loader))
    finally:
        log.end_progress()
    if evaluation is not None and evaluation.error is not None:
        raise evaluation.error
    # Also a signal that came after the last step, such as in its evaluation.
    if trainer.stop or any(world.gather(signals.asked())):
        log.say(f"stopped at step {trainer.step} of {cfg.TRAIN.STEPS}; run the same command again to go on")
        return 128 + (signals.received or 15), len(logging.failed)
    if not (trains and cfg.TRAIN.EVAL_EVERY):  # else the evaluation of the last step has done so
        _refresh(cfg, trainer, index)
    if trainer.result is not model:
        model.load_state_dict(trainer.result.state_dict())
    if world.is_main:
        save_checkpoint({"model": model.state_dict(), "step": trainer.step, **extra}, checkpoints / "last.pt")
    return 0, len(logging.failed)


def _rate(cfg: CfgNode) -> str:
    base, batch = cfg.SOLVER.BASE_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE
    scaling = f" (SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:.4g} x {batch} / {base})" if base else ", not scaled"
    return f"learning rate {full_lr(cfg):.4g} for a batch of {batch}{scaling}"


def _passes(cfg: CfgNode, videos: int) -> float:
    return cfg.TRAIN.STEPS * cfg.TRAIN.BATCH_SIZE / (videos * cfg.DATA.REPEATS)


def _in_steps(cfg: CfgNode, videos: int) -> CfgNode:
    """TRAIN.EPOCHS as TRAIN.STEPS: the last pass is whole."""
    if not cfg.TRAIN.EPOCHS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TRAIN.STEPS = math.ceil(cfg.TRAIN.EPOCHS * videos * cfg.DATA.REPEATS / cfg.TRAIN.BATCH_SIZE)
    cfg.freeze()
    return cfg


def _refresh(cfg: CfgNode, trainer: Trainer, index: VideoIndex) -> None:
    """TRAIN.PRECISE_BN, with the batches that the next steps will see."""
    if not cfg.TRAIN.PRECISE_BN:
        return
    world = trainer.world
    unread: list[Failure] = []

    def clips() -> Iterator[Tensor]:
        for batch in build_train_loader(
            cfg, index=index, rank=world.rank, world_size=world.size, start_step=trainer.step
        ):
            if (batch.labels < 0).any():
                unread.append(batch.failed[-1])
            frames = trainer.augment.frames(batch.frames.to(world.device), batch.seeds)
            yield trainer.augment.clips(normalize_clips(frames, cfg.DATA.MEAN, cfg.DATA.STD), batch.seeds)

    with autocast(world.device, cfg.TRAIN.PRECISION):
        precise_batch_norm(trainer.result, clips(), cfg.TRAIN.PRECISE_BN)
    for part in world.gather(unread):
        if part:
            raise none_is_read(part[-1])


def _augmentation(cfg: CfgNode) -> Augmentation:
    num_ops, magnitude = cfg.DATA.RANDAUGMENT
    return Augmentation(num_ops=num_ops, magnitude=magnitude, erasing=cfg.DATA.RANDOM_ERASING, fill=cfg.DATA.MEAN)


def _mixing(cfg: CfgNode) -> Mixing | None:
    if not (cfg.TRAIN.MIXUP or cfg.TRAIN.CUTMIX):
        return None
    return Mixing(mixup=cfg.TRAIN.MIXUP, cutmix=cfg.TRAIN.CUTMIX, num_classes=cfg.MODEL.NUM_CLASSES)


def _start_from(
    cfg: CfgNode, trainer: Trainer, data: RunData, folder: Path, log: RunLog, evaluation: Evaluation | None
) -> None:
    """The newest checkpoint of this run, or else the weights of TRAIN.CHECKPOINT."""
    state = newest_checkpoint(folder, log.say) if cfg.TRAIN.RESUME else None
    _check_same_step(trainer.world, 0 if state is None else state["step"], folder)
    if state is not None:
        data.resume(state, folder, log.say)
        _check_same_network(cfg, state["config"], folder)
        _tell_differences(cfg, state["config"], log)
        try:
            trainer.load_state(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder}: its checkpoints are of another network or optimiser ({reason}); choose another OUTPUT_DIR, "
                "or set TRAIN.RESUME False"
            ) from None
        if evaluation is not None and evaluation.path.is_file():
            evaluation.best = _best(evaluation.path, log)
        log.say(f"going on at step {trainer.step} from {folder}")
    elif cfg.TRAIN.CHECKPOINT:
        path = local_file(cfg.TRAIN.CHECKPOINT)
        content = read_checkpoint(path)
        head, note = data.head_rows(Weights(path, content))
        report = fit(trainer.model, state_of(content, path), path, inflation=cfg.TRAIN.INFLATE, head=head)
        log.say(f"starting from {cfg.TRAIN.CHECKPOINT}: {report}; {note}")


def _check_same_step(world: World, step: int, folder: Path) -> None:
    """Processes that went on from different steps would train different networks, or wait for each other for ever."""
    steps = world.gather(step)
    other = next((rank for rank, theirs in enumerate(steps) if theirs != steps[0]), None)
    if other is not None:
        raise UserError(
            f"{folder}: the first process finds a checkpoint of step {steps[0]}, process {other} one of step "
            f"{steps[other]} (0: none): choose an OUTPUT_DIR that all nodes share and can read"
        )


def _best(path: Path, log: RunLog) -> float:
    """The top-1 of ``best.pt``; -1 where it cannot be told, so that the next evaluation replaces the file."""
    try:
        return float(read_checkpoint(path)["top1"])
    except UserError as error:
        log.say(f"warning: {error}; the next evaluation replaces it")
    except (KeyError, TypeError, ValueError):
        log.say(f"warning: {path}: it has no top-1; the next evaluation replaces it")
    return -1.0


def _check_same_network(cfg: CfgNode, text: str, folder: Path) -> None:
    """The weights of a network fit its octave twin, so the configurations must tell them apart."""
    saved = CfgNode.load_cfg(text)
    for key in ("MODEL", "OCTAVE", "SOLVER"):
        for name, value in saved.get(key, {}).items():
            if key == "SOLVER" and name != "OPTIMIZER":
                continue
            if name in cfg[key] and cfg[key][name] != value:
                raise UserError(
                    f"{folder}: its checkpoints have {key}.{name} {value}, this run {cfg[key][name]}: choose another "
                    "OUTPUT_DIR, or set TRAIN.RESUME False"
                )


def _tell_differences(cfg: CfgNode, text: str, log: RunLog) -> None:
    """What makes the result another than that of an uninterrupted run, and may still be wanted."""
    saved, differences = CfgNode.load_cfg(text), []
    for key in ("SEED", "DATA.TRAIN", "DATA.NUM_FRAMES", "TRAIN.BATCH_SIZE", "TRAIN.PRECISION"):
        before, now = saved, cfg
        for name in key.split("."):
            before, now = before.get(name, {}), now[name]
        if before != now:
            differences.append(f"{key} {now} (was {before})")
    if differences:
        log.say(f"warning: this run goes on with other settings: {', '.join(differences)}")


def scores(cfg: CfgNode, model: nn.Module, loader: Any, world: World) -> TestResult:
    """``octvideo.engine.tester.test`` as a configuration says; all ranks score rank 0's network."""
    world.share_buffers(model)  # the ranks must score one network, the one that rank 0 saves
    with autocast(world.device, cfg.TRAIN.PRECISION):
        return test(
            model,
            loader,
            world,
            mean=cfg.DATA.MEAN,
            std=cfg.DATA.STD,
            max_failed=cfg.DATA.MAX_FAILED,
            max_views=cfg.TEST.MAX_VIEWS,
            average=cfg.TEST.AVERAGE,
        )


def _top1(result: TestResult, index: VideoIndex) -> float:
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    return top_k_accuracy(result.scores[known], labels[known], 1)
