"""Train a network as configured: build everything, check everything, then take the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.config import save_cfg, with_keys
from octvideo.data import Batch, Failure, VideoIndex, build_test_loader, build_train_loader
from octvideo.data.augment import build_augmentation
from octvideo.data.dataset import UNREADABLE
from octvideo.data.mixing import Mixing
from octvideo.data.seen import merge_seen, seen_in
from octvideo.engine.averaging import precise_batch_norm
from octvideo.engine.checkpoints import read_best, remove_leftovers, save_checkpoint, set_aside
from octvideo.engine.datasets import RunData, Weights
from octvideo.engine.evaluate import build_tester
from octvideo.engine.failures import all_unreadable_error
from octvideo.engine.hooks import Checkpointing, Evaluation, Logging, Validation
from octvideo.engine.logging import RunLog
from octvideo.engine.metrics import mean_loss, top_k_accuracy
from octvideo.engine.networks import octave_plan, other_plan
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.engine.precision import autocast
from octvideo.engine.preparation import ClipPreparation
from octvideo.engine.results import labelled
from octvideo.engine.resume import describe, find_resumption
from octvideo.engine.session import Session
from octvideo.engine.teacher import build_teacher
from octvideo.engine.trainer import Hook, Trainer, TrainSettings
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.models import Stage
from octvideo.models.checkpoints import fit, local_file, read_checkpoint, state_of
from octvideo.signals import Stopped

__all__ = ["Trained", "train_network"]

Batches = Callable[[int], Iterable[Batch]]  # the batches from a step on

RECOMPUTING_COMPILES = "2.9"  # the first PyTorch that was seen to do it right; 2.6 and 2.7 do not


class Trained(NamedTuple):
    """How a training ended.

    Attributes:
        finished: whether all steps are done; False where a signal stopped it, with a checkpoint.
        num_failed: number of videos that this run could not read.
        cfg: the configuration that made the weights.
    """

    finished: bool
    num_failed: int
    cfg: CfgNode


def train_network(cfg: CfgNode, session: Session, model: nn.Module, data: RunData) -> Trained:
    """Train a network, which ends as the one to test, and leave its checkpoints in the session's folder.

    Everything is checked before anything is written. If no step is left, only a missing ``last.pt`` is written. Where
    the training resumes, the labels in ``data`` get the order of the checkpoint.

    Raises:
        Stopped: a signal came before the first step.
        UserError: the user can fix the cause.
    """
    index, world, log, checkpoints = data.train, session.world, session.log, session.checkpoints
    assert index is not None
    if cfg.TRAIN.EPOCHS:  # the last pass is a whole one
        steps = math.ceil(cfg.TRAIN.EPOCHS * len(index) * cfg.DATA.REPEATS / cfg.TRAIN.BATCH_SIZE)
        cfg = with_keys(cfg, {"TRAIN.STEPS": steps})
    cfg, state, done = find_resumption(cfg, session, data)

    start = None if state is not None or not cfg.TRAIN.CHECKPOINT else _read_weights(cfg.TRAIN.CHECKPOINT)
    before = start.content if start is not None else state
    metadata = {
        "config": cfg.dump(),
        "plan": octave_plan(model).as_dict(),
        "classes": index.classes,
        "videos": describe(index),
        "seen": merge_seen(
            before.get("seen") if isinstance(before, Mapping) else None,
            data.teacher.network.seen if data.teacher is not None else None,
            seen_in(index),
        ),
        "ranks": world.size,
        "teacher": data.teacher and data.teacher.sha256,
    }
    data.warn_of_seen(metadata["seen"], cfg, log.say)

    def record_config() -> None:
        save_cfg(cfg, session.folder / "config.yaml")

    def batches(step: int) -> Iterable[Batch]:
        return build_train_loader(cfg, index=index, rank=world.rank, world_size=world.size, start_step=step)

    logging = Logging(log, cfg.TRAIN.LOG_EVERY)
    evaluation = None if done or data.val is None else build_evaluation(cfg, session, data.val, batches, metadata)
    checkpointing = Checkpointing(
        checkpoints, cfg.TRAIN.CHECKPOINT_EVERY, cfg.TRAIN.KEEP_CHECKPOINTS, metadata, record_config
    )
    hooks: list[Hook] = [lambda *_: session.check_lock(), logging, checkpointing]
    if evaluation is not None:
        hooks.insert(2, evaluation)  # before the checkpoint: its failure ends the run with one
    _set_recompute(model, cfg.TRAIN.RECOMPUTE)
    trainer = build_trainer(cfg, session, model, index.path, hooks)
    if data.teacher is not None and not done:
        trainer.teacher = build_teacher(cfg, data.teacher, index, world.device)
    _compile(model, cfg.TRAIN.COMPILE, recomputes=bool(cfg.TRAIN.RECOMPUTE))
    if state is not None:
        _load_state(trainer, state, checkpoints)
        if done:
            _finish(trainer, batches, cfg.TRAIN.PRECISE_BN, state, session)
            return Trained(True, 0, cfg)
        log.say(f"resuming at step {trainer.step} from {checkpoints}")
        if evaluation is not None:
            evaluation.best = read_best(checkpoints, log.say)
    elif start is not None:
        _load_weights(model, start, cfg, data, log)
    loader = batches(trainer.step)

    log.start(cfg.TRAIN.WANDB, cfg)
    if world.is_main:
        remove_leftovers(checkpoints)
        if not cfg.TRAIN.RESUME and (earlier := set_aside(checkpoints)):
            log.say(f"TRAIN.RESUME is False: the checkpoints of an earlier run are now in {earlier}")
        if state is None:  # else config.yaml belongs to the weights in the folder, until new ones are saved
            record_config()
    session.signals.hold()
    _announce(cfg, session, index)
    if trainer.teacher is not None:
        share, labels = trainer.teacher.weight, "" if (index.labels >= 0).all() else ", as the videos have no labels"
        log.say(f"learning from TRAIN.TEACHER {cfg.TRAIN.TEACHER}: {share:.0%} of the loss{labels}")
    try:
        trainer.train(session.until_signal(loader, after=1))
    except Stopped:  # while it waited for a batch
        trainer.stop = True
        session.check_lock()
        checkpointing.save(trainer)
    finally:
        log.end_progress()
    if evaluation is not None and evaluation.error is not None:
        raise evaluation.error
    gave_up = evaluation is not None and evaluation.gave_up
    # A signal may also have come after the last step, such as in its evaluation.
    if (trainer.stop and not gave_up) or session.any_rank_asked_to_stop():
        log.say(f"stopped at step {trainer.step} of {cfg.TRAIN.STEPS}; run the same command again to resume")
        return Trained(False, len(logging.failed), cfg)
    if evaluation is None:  # else the evaluation of the last step has done it
        _refresh_batch_norm(trainer, batches, cfg.TRAIN.PRECISE_BN)
    session.check_lock()
    _save_result(trainer, metadata, checkpoints)
    return Trained(True, len(logging.failed), cfg)


def build_trainer(
    cfg: CfgNode, session: Session, model: nn.Module, path_of: Callable[[int], str], hooks: Sequence[Hook]
) -> Trainer:
    """Return the trainer of a configuration, which stops at a signal."""
    mix = None
    if cfg.TRAIN.MIXUP or cfg.TRAIN.CUTMIX:
        mix = Mixing(mixup=cfg.TRAIN.MIXUP, cutmix=cfg.TRAIN.CUTMIX, num_classes=cfg.MODEL.NUM_CLASSES)
    preparation = ClipPreparation(
        cfg.DATA.MEAN,
        cfg.DATA.STD,
        build_augmentation(cfg),
        mix,
    )
    settings = TrainSettings(
        steps=cfg.TRAIN.STEPS,
        precision=cfg.TRAIN.PRECISION,
        accumulate=cfg.TRAIN.ACCUMULATE,
        clip_grad_norm=cfg.TRAIN.CLIP_GRAD_NORM,
        label_smoothing=cfg.TRAIN.LABEL_SMOOTHING,
        ema=cfg.TRAIN.EMA,
        max_failed=cfg.DATA.MAX_FAILED,
        seed=cfg.SEED,
    )
    return Trainer(
        model,
        build_optimizer(cfg, model),
        build_schedule(cfg),
        preparation,
        settings,
        world=session.world,
        path_of=path_of,
        asked_to_stop=session.signals.asked,
        hooks=hooks,
    )


def build_evaluation(
    cfg: CfgNode, session: Session, val: VideoIndex, batches: Batches, metadata: Mapping[str, Any]
) -> Evaluation:
    """Return the hook that evaluates on DATA.VAL; ``batches`` are those of training, for TRAIN.PRECISE_BN.

    Raises:
        UserError: no video has a label.
    """
    if not (val.labels >= 0).any():
        raise UserError(f"DATA.VAL ({cfg.DATA.VAL}): no video has a label: give it labels, or set TRAIN.EVAL_EVERY 0")
    tester = build_tester(cfg, session)
    loader = build_test_loader(
        cfg,
        split="val",
        index=val,
        rank=session.world.rank,
        world_size=session.world.size,
        num_clips=cfg.TRAIN.EVAL_CLIPS,
        num_crops=cfg.TRAIN.EVAL_CROPS,
        num_videos=cfg.TRAIN.EVAL_VIDEOS,
    )

    def evaluate(trainer: Trainer) -> Validation:
        _refresh_batch_norm(trainer, batches, cfg.TRAIN.PRECISE_BN)
        result = tester.score(trainer.result, session.until_signal(loader))
        tester.check_failures(result)
        scores, labels = labelled(result, val)
        return Validation(top_k_accuracy(scores, labels, 1), mean_loss(scores, labels), len(result.failed))

    every, patience = cfg.TRAIN.EVAL_EVERY, cfg.TRAIN.PATIENCE
    return Evaluation(evaluate, every, patience, session.checkpoints, session.log, metadata)


def _set_recompute(model: nn.Module, stages: Sequence[int]) -> None:
    for module in model.modules():
        if isinstance(module, Stage):
            module.recompute = module.number in stages


def _compile(model: nn.Module, backend: str, *, recomputes: bool) -> None:
    """Compile the network in place; an empty backend leaves it uncompiled."""
    if not backend:
        return
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        backends = ", ".join(torch.compiler.list_backends())
        raise UserError(f"TRAIN.COMPILE is {backend}: it must be one of {backends}, or empty")
    if recomputes and torch.__version__ < RECOMPUTING_COMPILES:
        raise UserError(
            f"TRAIN.RECOMPUTE with TRAIN.COMPILE needs PyTorch {RECOMPUTING_COMPILES} or newer, and this is "
            f"{torch.__version__}: batch norms would update their statistics twice; leave one of the keys out"
        )
    model.compile(backend=backend)


def _load_state(trainer: Trainer, state: dict[str, Any], checkpoints: Path) -> None:
    try:
        trainer.load_state(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{checkpoints}: its checkpoints are of another network or optimiser ({reason}); choose another "
            "OUTPUT_DIR, or set TRAIN.RESUME False"
        ) from None


def _read_weights(checkpoint: str) -> Weights:
    path = local_file(checkpoint)
    return Weights(path, read_checkpoint(path))


def _load_weights(model: nn.Module, weights: Weights, cfg: CfgNode, data: RunData, log: RunLog) -> None:
    """Load the weights of TRAIN.CHECKPOINT; their head is kept where the classes are the same."""
    head, note = data.head_rows(weights)
    state = state_of(weights.content, weights.path)
    loaded = fit(model, state, weights.path, inflation=cfg.TRAIN.INFLATE, head=head)
    log.say(f"starting from {cfg.TRAIN.CHECKPOINT}: {loaded}; {note}")
    text = other_plan(model, weights.content, weights.path)
    if text and not loaded.has_groups:
        log.say(text)


def _announce(cfg: CfgNode, session: Session, index: VideoIndex) -> None:
    """Log what is trained, and warn where no video has label 0."""
    world, say = session.world, session.log.say
    if (index.labels >= 0).any() and not (index.labels == 0).any() and not Path(cfg.DATA.TRAIN).is_dir():
        name = index.classes[0]
        say(f"warning: DATA.TRAIN ({cfg.DATA.TRAIN}) has no video with label 0 ({name}); labels count from 0")
    base, batch, steps = cfg.SOLVER.BASE_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.STEPS
    passes = steps * batch / (len(index) * cfg.DATA.REPEATS)
    scaling = f" (SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:.4g} x {batch} / {base})" if base else ", not scaled"
    say(
        f"training on {len(index)} videos of {len(index.classes)} classes, {world.size} process(es) on "
        f"{world.device.type}; {steps} steps, {passes:.3g} passes over them; learning rate {full_lr(cfg):.4g} for a "
        f"batch of {batch}{scaling}"
    )


def _refresh_batch_norm(trainer: Trainer, batches: Batches, count: int) -> None:
    """Set the running statistics to those of the next ``count`` batches (TRAIN.PRECISE_BN); 0 leaves them."""
    if not count:
        return
    device, unreadable = trainer.world.device, list[Failure]()

    def clips() -> Iterator[Tensor]:
        for batch in batches(trainer.step):
            if (batch.labels == UNREADABLE).any():
                unreadable.append(batch.failed[-1])
            yield trainer.preparation.clips(batch.frames, batch.seeds, device)

    with autocast(device, trainer.settings.precision):
        precise_batch_norm(trainer.result, clips(), count)
    for part in trainer.world.gather(unreadable):
        if part:
            raise all_unreadable_error(part[-1])


def _finish(trainer: Trainer, batches: Batches, precise: int, state: Mapping[str, Any], session: Session) -> None:
    """Load ``last.pt`` of a training that is done, or make it where the run ended before it was written."""
    path = session.checkpoints / "last.pt"
    try:
        last = read_checkpoint(path)
        is_complete = last["step"] >= state["step"]
        if is_complete:
            trainer.model.load_state_dict(last["model"])
    except (UserError, KeyError, RuntimeError, TypeError):
        is_complete = False
    if all(trainer.world.gather(is_complete)):
        return
    trainer.model.load_state_dict(state["model"])
    _refresh_batch_norm(trainer, batches, precise)
    metadata = {
        key: state[key] for key in ("config", "plan", "classes", "videos", "seen", "ranks", "teacher") if key in state
    }
    _save_result(trainer, metadata, session.checkpoints)
    if trainer.world.is_main:
        write_text(session.folder / "config.yaml", state["config"])


def _save_result(trainer: Trainer, metadata: Mapping[str, Any], checkpoints: Path) -> None:
    """Put the trained network into the trainer's model, and save it as ``last.pt``."""
    if trainer.result is not trainer.model:
        trainer.model.load_state_dict(trainer.result.state_dict())
    if trainer.world.is_main:
        payload = {"model": trainer.model.state_dict(), "step": trainer.step}
        save_checkpoint({**payload, **metadata}, checkpoints / "last.pt")
