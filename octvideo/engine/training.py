"""Training as a configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.config import save_cfg
from octvideo.data import Failure, VideoIndex, build_test_loader, build_train_loader, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.engine.averaging import precise_batch_norm
from octvideo.engine.checkpoints import newest_checkpoint, remove_leftovers, save_checkpoint, set_aside
from octvideo.engine.datasets import RunData, Weights
from octvideo.engine.distributed import World
from octvideo.engine.failures import all_unreadable_error
from octvideo.engine.hooks import Checkpointing, Evaluation, Logging
from octvideo.engine.lock import RunLock
from octvideo.engine.logging import RunLog
from octvideo.engine.metrics import top_k_accuracy
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.engine.resume import as_recorded, check_same_run, describe, recorded_cfg, report
from octvideo.engine.tester import TestResult, check_failures, test
from octvideo.engine.trainer import Trainer, autocast
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.models import Stage
from octvideo.models.checkpoints import fit, local_file, read_checkpoint, state_of
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["Trained", "scores", "stoppable", "train"]

T = TypeVar("T")


class Trained(NamedTuple):
    """How a training ended.

    Attributes:
        code: 0 when all steps are done, 128 + signal where a signal stopped it (a checkpoint is written then).
        num_failed: videos that this run could not read.
        cfg: the configuration that made the weights.
    """

    code: int
    num_failed: int
    cfg: CfgNode


def train(
    cfg: CfgNode,
    model: nn.Module,
    data: RunData,
    folder: Path,
    world: World,
    log: RunLog,
    signals: StopOnSignal,
    lock: RunLock,
) -> Trained:
    """Trains ``model``, which ends as what is to be tested, and leaves its checkpoints in the folder.

    Nothing is written before all is checked; where no step is left, nothing but a ``last.pt`` that is missing.
    The labels in ``data`` are put in the order of the checkpoint where the training resumes.

    Raises:
        Stopped: a signal came before the first step.
        UserError: what the user can fix.
    """
    index = data.train
    assert index is not None
    cfg = _in_steps(cfg, len(index))
    checkpoints = folder / "checkpoints"
    state = newest_checkpoint(checkpoints, log.say) if cfg.TRAIN.RESUME else None
    _check_same_step(world, 0 if state is None else state["step"], checkpoints)
    done = state is not None and state["step"] >= cfg.TRAIN.STEPS
    if state is not None:
        recorded = recorded_cfg(state, checkpoints)
        data.resume(state, checkpoints, log.say)
        check_same_run(cfg, state, recorded, index, checkpoints, done=done)
        if done:
            log.say(f"{checkpoints}: step {state['step']} of {cfg.TRAIN.STEPS} is done, nothing is left to train")
        for line in report(cfg, state, recorded, world.size, done=done):
            log.say(line)
        cfg = as_recorded(cfg, recorded, done=done)
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.recompute = stage.number in cfg.TRAIN.RECOMPUTE
    extra = {"config": cfg.dump(), "classes": index.classes, "videos": describe(index), "ranks": world.size}
    logging = Logging(log, cfg.TRAIN.LOG_EVERY)
    hooks: list[Any] = [lambda _: lock.check(), logging] if world.is_main else [logging]
    evaluation = None
    if (val := data.val) is not None and not done:
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
            result = scores(cfg, trainer.result, stoppable(val_loader, signals, world), world, signals)
            check_failures(result, cfg.DATA.MAX_FAILED)
            return _top1(result, val), len(result.failed)

        evaluation = Evaluation(evaluate, cfg.TRAIN.EVAL_EVERY, checkpoints / "best.pt", log, extra)
        hooks.append(evaluation)

    def record() -> None:
        save_cfg(cfg, folder / "config.yaml")

    checkpointing = Checkpointing(checkpoints, cfg.TRAIN.CHECKPOINT_EVERY, cfg.TRAIN.KEEP_CHECKPOINTS, extra, record)
    hooks.append(checkpointing)
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
    if state is not None:
        _load(trainer, state, checkpoints)
        if not done:
            log.say(f"going on at step {trainer.step} from {checkpoints}")
    elif cfg.TRAIN.CHECKPOINT:
        path = local_file(cfg.TRAIN.CHECKPOINT)
        content = read_checkpoint(path)
        head, note = data.head_rows(Weights(path, content))
        loaded = fit(model, state_of(content, path), path, inflation=cfg.TRAIN.INFLATE, head=head)
        log.say(f"starting from {cfg.TRAIN.CHECKPOINT}: {loaded}; {note}")
    if done:
        assert state is not None
        _finish(cfg, trainer, index, state, folder)
        return Trained(0, 0, cfg)
    if evaluation is not None and state is not None and evaluation.path.is_file():
        evaluation.best = _best(evaluation.path, log)
    loader = build_train_loader(cfg, index=index, rank=world.rank, world_size=world.size, start_step=trainer.step)
    log.start(cfg.TRAIN.WANDB, cfg)
    if world.is_main:
        remove_leftovers(checkpoints)
        if not cfg.TRAIN.RESUME and (earlier := set_aside(checkpoints)):
            log.say(f"TRAIN.RESUME is False: the checkpoints of an earlier run are now in {earlier}")
        if state is None:  # else config.yaml belongs to the weights that are there, until there are others
            record()
    signals.hold()
    if not (index.labels == 0).any() and not Path(cfg.DATA.TRAIN).is_dir():
        name = index.classes[0]
        log.say(f"warning: DATA.TRAIN ({cfg.DATA.TRAIN}) has no video with label 0 ({name}); labels count from 0")
    log.say(
        f"training on {len(index)} videos of {len(index.classes)} classes, {world.size} process(es) on "
        f"{world.device.type}; {cfg.TRAIN.STEPS} steps, {_passes(cfg, len(index)):.3g} passes over them; {_rate(cfg)}"
    )
    try:
        trainer.train(stoppable(loader, signals, world, after=1))
    except Stopped:  # while it waited for a batch
        trainer.stop = True
        lock.check()
        checkpointing(trainer)
    finally:
        log.end_progress()
    if evaluation is not None and evaluation.error is not None:
        raise evaluation.error
    # Also a signal that came after the last step, such as in its evaluation.
    if trainer.stop or any(world.gather(signals.asked())):
        log.say(f"stopped at step {trainer.step} of {cfg.TRAIN.STEPS}; run the same command again to go on")
        return Trained(signals.code, len(logging.failed), cfg)
    if not cfg.TRAIN.EVAL_EVERY:  # else the evaluation of the last step has done so
        _refresh(cfg, trainer, index)
    if world.is_main:
        lock.check()
    _keep_result(trainer, extra, checkpoints)
    return Trained(0, len(logging.failed), cfg)


def _keep_result(trainer: Trainer, extra: Mapping[str, Any], checkpoints: Path) -> None:
    """``last.pt``, and the same in the trainer's model."""
    if trainer.result is not trainer.model:
        trainer.model.load_state_dict(trainer.result.state_dict())
    if trainer.world.is_main:
        payload = {"model": trainer.model.state_dict(), "step": trainer.step}
        save_checkpoint({**payload, **extra}, checkpoints / "last.pt")


def _finish(cfg: CfgNode, trainer: Trainer, index: VideoIndex, state: Mapping[str, Any], folder: Path) -> None:
    """The network of a training that is done: ``last.pt``, made here where the run ended before it was written."""
    path = folder / "checkpoints" / "last.pt"
    try:
        last = read_checkpoint(path)
        whole = last["step"] >= state["step"]
        if whole:
            trainer.model.load_state_dict(last["model"])
    except (UserError, KeyError, RuntimeError, TypeError):
        whole = False
    if all(trainer.world.gather(whole)):
        return
    trainer.model.load_state_dict(state["model"])
    _refresh(cfg, trainer, index)
    _keep_result(
        trainer, {key: state[key] for key in ("config", "classes", "videos", "ranks") if key in state}, path.parent
    )
    if trainer.world.is_main:
        write_text(folder / "config.yaml", state["config"])


def _load(trainer: Trainer, state: dict[str, Any], folder: Path) -> None:
    try:
        trainer.load_state(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder}: its checkpoints are of another network or optimiser ({reason}); choose another OUTPUT_DIR, "
            "or set TRAIN.RESUME False"
        ) from None


def stoppable(items: Iterable[T], signals: StopOnSignal, world: World, after: int = 0) -> Iterator[T]:
    """The items. A process that is alone need not wait for the next one to stop; several stop after the same one."""
    return signals.waiting(items, after) if world.size == 1 else iter(items)


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
            raise all_unreadable_error(part[-1])


def _augmentation(cfg: CfgNode) -> Augmentation:
    num_ops, magnitude = cfg.DATA.RANDAUGMENT
    return Augmentation(num_ops=num_ops, magnitude=magnitude, erasing=cfg.DATA.RANDOM_ERASING, fill=cfg.DATA.MEAN)


def _mixing(cfg: CfgNode) -> Mixing | None:
    if not (cfg.TRAIN.MIXUP or cfg.TRAIN.CUTMIX):
        return None
    return Mixing(mixup=cfg.TRAIN.MIXUP, cutmix=cfg.TRAIN.CUTMIX, num_classes=cfg.MODEL.NUM_CLASSES)


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


def scores(cfg: CfgNode, model: nn.Module, loader: Any, world: World, signals: StopOnSignal) -> TestResult:
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
            asked_to_stop=signals.asked,
            average=cfg.TEST.AVERAGE,
        )


def _top1(result: TestResult, index: VideoIndex) -> float:
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    return top_k_accuracy(result.scores[known], labels[known], 1)
