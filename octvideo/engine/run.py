"""One run: train, then test, as a configuration says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import save_cfg
from octvideo.data import VideoIndex, build_index, build_test_loader, build_train_loader
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.engine.checkpoints import newest_checkpoint, remove_leftovers, save_checkpoint, set_aside
from octvideo.engine.distributed import World, distributed
from octvideo.engine.hooks import Checkpointing, Evaluation, Logging, StopOnSignal
from octvideo.engine.logging import RunLog
from octvideo.engine.metrics import top_k_accuracy
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.engine.tester import TestResult, test, write_result
from octvideo.engine.trainer import Trainer, autocast
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights, local_file, read_checkpoint

__all__ = ["run"]


def run(cfg: CfgNode) -> int:
    """Trains and tests; everything that a run leaves is in OUTPUT_DIR.

    Returns:
        The exit code: 0 when all is done, 128 + signal where a signal stopped it (a checkpoint is written then).

    Raises:
        UserError: what the user can fix.
    """
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        raise UserError("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")
    folder = Path(cfg.OUTPUT_DIR)
    with distributed(cfg.DEVICE) as world:
        if world.device.type == "cpu" and cfg.TRAIN.ENABLE and cfg.TRAIN.PRECISION == "fp16":
            raise UserError("TRAIN.PRECISION is fp16, which the CPU does not train in: use bf16 or fp32")
        _prepare_folder(folder, cfg, world)
        with RunLog(folder if world.is_main else None) as log:
            if cfg.NUM_THREADS:
                torch.set_num_threads(cfg.NUM_THREADS)
            torch.manual_seed(cfg.SEED)
            model = build_model(cfg).to(world.device)
            if cfg.MODEL.CONV_AS_2D:
                model = model.to(memory_format=torch.channels_last_3d)
            if cfg.TRAIN.ENABLE:
                code = _train(cfg, model, folder, world, log)
                if code:
                    return code
            if cfg.TEST.ENABLE:
                _test(cfg, model, folder, world, log)
    return 0


def _prepare_folder(folder: Path, cfg: CfgNode, world: World) -> None:
    if not world.is_main:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_cfg(cfg, folder / "config.yaml")
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {folder}: cannot be written ({error.strerror}); choose another one") from None


def _train(cfg: CfgNode, model: nn.Module, folder: Path, world: World, log: RunLog) -> int:
    index = build_index(cfg, "train")
    checkpoints = folder / "checkpoints"
    if world.is_main:
        remove_leftovers(checkpoints)
        if not cfg.TRAIN.RESUME and (earlier := set_aside(checkpoints)):
            log.say(f"TRAIN.RESUME is False: the checkpoints of an earlier run are now in {earlier}")
    extra = {"config": cfg.dump(), "classes": index.classes}
    logging = Logging(log, cfg.TRAIN.LOG_EVERY)
    signals = StopOnSignal()
    hooks: list[Any] = [logging]
    evaluation = None
    if cfg.TRAIN.EVAL_EVERY:
        val = build_index(cfg, "val")
        _check_same_classes(index, val, cfg)
        val_loader = build_test_loader(
            cfg, split="val", index=val, rank=world.rank, world_size=world.size, num_clips=1, num_crops=1
        )

        def evaluate() -> tuple[float, int]:
            result = _scores(cfg, model, val_loader, world)
            return _top1(result, val), len(result.failed)

        evaluation = Evaluation(evaluate, cfg.TRAIN.EVAL_EVERY, checkpoints / "best.pt", log, extra)
        hooks.append(evaluation)
    hooks += [signals, Checkpointing(checkpoints, cfg.TRAIN.CHECKPOINT_EVERY, cfg.TRAIN.KEEP_CHECKPOINTS, extra)]
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
        hooks=hooks,
    )
    _start_from(cfg, trainer, checkpoints, log, evaluation)
    log.say(
        f"training on {len(index)} videos of {len(index.classes)} classes, {world.size} process(es) on "
        f"{world.device.type}; learning rate {full_lr(cfg):.4g} for a batch of {cfg.TRAIN.BATCH_SIZE}"
    )
    loader = build_train_loader(cfg, index=index, rank=world.rank, world_size=world.size, start_step=trainer.step)
    try:
        if trainer.step < cfg.TRAIN.STEPS:
            trainer.train(iter(loader))
    finally:
        signals.restore()
        log.end_progress()
    if trainer.stop:
        log.say(f"stopped at step {trainer.step} of {cfg.TRAIN.STEPS}; run the same command again to go on")
        return 128 + (signals.received or 15)
    if world.is_main:
        save_checkpoint({"model": model.state_dict(), "step": trainer.step, **extra}, checkpoints / "last.pt")
    return 0


def _augmentation(cfg: CfgNode) -> Augmentation:
    num_ops, magnitude = cfg.DATA.RANDAUGMENT
    return Augmentation(num_ops=num_ops, magnitude=magnitude, erasing=cfg.DATA.RANDOM_ERASING, fill=cfg.DATA.MEAN)


def _mixing(cfg: CfgNode) -> Mixing | None:
    if not (cfg.TRAIN.MIXUP or cfg.TRAIN.CUTMIX):
        return None
    return Mixing(mixup=cfg.TRAIN.MIXUP, cutmix=cfg.TRAIN.CUTMIX, num_classes=cfg.MODEL.NUM_CLASSES)


def _start_from(cfg: CfgNode, trainer: Trainer, folder: Path, log: RunLog, evaluation: Evaluation | None) -> None:
    """The newest checkpoint of this run, or else the weights of TRAIN.CHECKPOINT."""
    state = newest_checkpoint(folder, log.say) if cfg.TRAIN.RESUME else None
    if state is not None:
        _check_same_network(cfg, state["config"], folder)
        try:
            trainer.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder}: its checkpoints are of another network or optimiser ({reason}); choose another OUTPUT_DIR, "
                "or set TRAIN.RESUME False"
            ) from None
        if evaluation is not None and evaluation.path.is_file():
            evaluation.best = read_checkpoint(evaluation.path)["top1"]
        log.say(f"going on at step {trainer.step} from {folder}")
    elif cfg.TRAIN.CHECKPOINT:
        report = load_weights(trainer.model, cfg.TRAIN.CHECKPOINT, inflation=cfg.TRAIN.INFLATE)
        log.say(f"starting from {cfg.TRAIN.CHECKPOINT}: {report}")


def _check_same_network(cfg: CfgNode, text: str, folder: Path) -> None:
    """The weights of a network fit its octave twin, so the configurations must tell them apart."""
    saved = CfgNode.load_cfg(text)
    for key in ("MODEL", "OCTAVE"):
        for name, value in saved[key].items():
            if name in cfg[key] and cfg[key][name] != value:
                raise UserError(
                    f"{folder}: its checkpoints have {key}.{name} {value}, this run {cfg[key][name]}: choose another "
                    "OUTPUT_DIR, or set TRAIN.RESUME False"
                )


def _check_same_classes(train: VideoIndex, val: VideoIndex, cfg: CfgNode) -> None:
    shorter = min(len(train.classes), len(val.classes))
    if train.classes[:shorter] != val.classes[:shorter]:
        raise UserError(
            f"DATA.TRAIN ({cfg.DATA.TRAIN}) and DATA.VAL ({cfg.DATA.VAL}) have different classes: "
            "set DATA.CLASSES to one file of class names"
        )


def _scores(cfg: CfgNode, model: nn.Module, loader: Any, world: World) -> TestResult:
    world.share_buffers(model)  # the ranks must score one network, the one that rank 0 saves
    with autocast(world.device, cfg.TRAIN.PRECISION):
        return test(
            model,
            loader,
            world,
            mean=cfg.DATA.MEAN,
            std=cfg.DATA.STD,
            max_views=cfg.TEST.MAX_VIEWS,
            average=cfg.TEST.AVERAGE,
        )


def _top1(result: TestResult, index: VideoIndex) -> float:
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    return top_k_accuracy(result.scores[known], labels[known], 1)


def _test(cfg: CfgNode, model: nn.Module, folder: Path, world: World, log: RunLog) -> None:
    index = build_index(cfg, "test")
    classes = index.classes
    path = local_file(cfg.TEST.CHECKPOINT) if cfg.TEST.CHECKPOINT else folder / "checkpoints" / "last.pt"
    if cfg.TEST.CHECKPOINT or not cfg.TRAIN.ENABLE:
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint; set TEST.CHECKPOINT, or train first (TRAIN.ENABLE True)")
        log.say(f"testing {path}: {load_weights(model, path, strict=True)}")
    if path.is_file():
        payload = read_checkpoint(path)
        known = payload.get("classes") if isinstance(payload, dict) else None
        if known:
            index = _in_the_order_of(index, known, path, cfg)
        classes = known if known and len(known) >= len(classes) else classes
    if len(classes) < cfg.MODEL.NUM_CLASSES:
        classes = [*classes, *(str(number) for number in range(len(classes), cfg.MODEL.NUM_CLASSES))]
    loader = build_test_loader(cfg, split="test", index=index, rank=world.rank, world_size=world.size)
    result = _scores(cfg, model, _with_progress(loader, len(index), world, log), world)
    if world.is_main:
        metrics = write_result(result, index, classes, folder, cfg.DATA.MAX_FAILED)
        numbers = {key: metrics[key] for key in ("top1", "top5", "num_videos", "num_failed")}
        log.write("test", step=cfg.TRAIN.STEPS, views=cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS, **numbers)
        for failure in result.failed:
            log.say(f"{failure.path}: cannot be read ({failure.reason})")
        log.say(
            f"{cfg.TEST.NUM_CLIPS} x {cfg.TEST.NUM_CROPS} views of {len(index)} videos, {len(result.failed)} failed: "
            f"top-1 {_percent(metrics['top1'])}, top-5 {_percent(metrics['top5'])}; see {folder}{os.sep}metrics.json"
        )


def _in_the_order_of(index: VideoIndex, known: list[str], path: Path, cfg: CfgNode) -> VideoIndex:
    """The videos with the class numbers of a checkpoint, in whose order the network's outputs are.

    A test folder may lack classes of the training; its own numbers are shifted then. A list of numbers without names is
    taken at its word, and so is DATA.CLASSES where the checkpoint has no names.
    """

    def nameless(classes: list[str]) -> bool:
        return classes == [str(number) for number in range(len(classes))]

    if nameless(index.classes) or (nameless(known) and cfg.DATA.CLASSES):
        return index
    if unknown := sorted(set(index.classes) - set(known)):
        key, names = "TEST" if cfg.DATA.TEST else "VAL", ", ".join(map(repr, known[:3]))
        raise UserError(
            f"DATA.{key} ({cfg.DATA[key]}) has the class {unknown[0]!r}, which {path} does not know ({names}, ...): "
            "set DATA.CLASSES to the class names that it was trained with"
        )
    return index.renumbered(known)


def _percent(value: float | None) -> str:
    return "unknown (no labels)" if value is None else f"{value:.2f} %"


def _with_progress(loader: Any, total: int, world: World, log: RunLog) -> Any:
    every = 1 if total < 50 else total // 50
    for done, item in enumerate(loader, 1):
        yield item
        if done % every == 0:
            log.progress("test", min(done * world.size, total), total, "videos")
    log.end_progress()
