"""Every configuration key, once: default, comment and valid values (``octvideo.config.keys.Key``)."""

from __future__ import annotations

from copy import deepcopy

from fvcore.common.config import CfgNode

from octvideo.architectures import ARCHITECTURES
from octvideo.config.keys import Key

__all__ = ["KEYS", "get_defaults"]

KEYS = {
    "OUTPUT_DIR": Key("output", "folder for all files of a run: config.yaml, log.jsonl, metrics.json, checkpoints"),
    "SEED": Key(0, "of the initial weights, the data order and the augmentation", high=2**63 - 1),
    "NUM_WORKERS": Key(2, "loader processes per rank; 0 = load in the main process"),
    "NUM_THREADS": Key(0, "CPU threads that a process computes with; 0 = torch's default"),
    "DEVICE": Key(
        "auto", "auto = CUDA or Apple's GPU (mps) if there is one, else the CPU", choices=("auto", "cpu", "cuda", "mps")
    ),
    # ------------------------------------------------------------ network
    "MODEL.ARCH": Key("i3d", "the network; images: docs/image_networks.md", choices=ARCHITECTURES),
    "MODEL.NUM_CLASSES": Key(0, "0 = as the training data or else the weights have; without both 400"),
    "MODEL.BLOCKS": Key([3, 4, 6, 3], "blocks in res2..res5: ResNet-50; 101: [3, 4, 23, 3]", low=1, lengths=(4,)),
    "MODEL.WIDTH": Key(64, "channels after the stem; the blocks of res2 end in 4 times as many", low=1),
    "MODEL.DROPOUT": Key(0.5, "before the classifier", high=1),
    "MODEL.STEM_KERNEL": Key([], "(T, H, W); [] = the architecture's", low=1, odd=True, lengths=(0, 3)),
    "MODEL.STEM_TEMPORAL_STRIDE": Key(1, "temporal stride of the stem; 4 for mmaction2's 32-frame I3D", low=1),
    "MODEL.STEM_POOL_PADDED": Key(True, "True = pad the first pool as PyTorchVideo; False = the paper's baselines"),
    "MODEL.TEMPORAL_POOL": Key(True, "c2d and i3d: max pool of (2, 1, 1) after res2"),
    "MODEL.TEMPORAL_KERNELS": Key(
        [], "of conv_a per stage, cycled over blocks; [] = the architecture's", low=1, odd=True, lengths=(0, 4), inner=1
    ),
    "MODEL.NONLOCAL": Key([[], [], [], []], "per stage, blocks that a non-local block follows", lengths=(4,), inner=0),
    "MODEL.CONV_AS_2D": Key(False, "run 3D convolutions as 2D ones: faster on a CPU, equal up to rounding"),
    "MODEL.SLOWFAST.FRAME_RATIO": Key(4, "Fast frames per Slow frame (SlowFast's alpha)", low=1),
    "MODEL.SLOWFAST.CHANNEL_RATIO": Key(8, "Slow channels per Fast channel (1 / beta)", low=1),
    "MODEL.SLOWFAST.FUSION_KERNEL": Key(7, "temporal kernel of the lateral connections", low=1, odd=True),
    "MODEL.SLOWFAST.FUSION_RATIO": Key(2, "output channels per input channel of a lateral", low=1),
    "MODEL.SLOWFAST.TEMPORAL_BLOCKS": Key(
        [], "blocks per stage with a temporal kernel; [] = all (PySlowFast's NUM_BLOCK_TEMP_KERNEL)", lengths=(0, 4)
    ),
    "MODEL.SLOWFAST.LATERAL_NORM": Key(True, "False = laterals without norm and ReLU, as in mmaction2"),
    "MODEL.SLOWFAST.SLOW_FRAMES": Key(
        "spread", "spread = first to last frame; every = each FRAME_RATIO-th, as mmaction2", choices=("spread", "every")
    ),
    "OCTAVE.ALPHA": Key(0.0, "share of low-frequency channels; 0 = the vanilla network", high=1),
    "OCTAVE.STAGES": Key([2, 3, 4], "residual stages with two frequencies", low=2, high=5),
    "OCTAVE.MULTIPLE": Key(1, "round the low channels to a multiple of this; 1 = the paper", low=1),
    "OCTAVE.DOWNSAMPLE": Key("avg", "conv = strided convolution (Table 8)", choices=("avg", "max", "conv")),
    "OCTAVE.HIGH_TO_LOW": Key(True, "False = without this path (Table 8)"),
    "OCTAVE.LOW_TO_HIGH": Key(True, "False = without this path (Table 8)"),
    "OCTAVE.POOL_STRIDED_LOW_TO_HIGH": Key(False, "at stride 2, low to high: pool and upsample, not convolve alone"),
    "OCTAVE.UPSAMPLE_FIRST": Key(False, "low to high: upsample, then convolve; MG-Conv with DOWNSAMPLE max"),
    "OCTAVE.POOL_VANILLA": Key(False, "pool before strided layers of one frequency too, as the authors' networks"),
    "OCTAVE.POOL_LEAVING": Key(False, "pool before the strided 3x3 after the last octave stage, as d-li14's networks"),
    "OCTAVE.FAST_ALPHA": Key(0.0, "alpha of SlowFast's Fast pathway", high=1),
    # ------------------------------------------------------------ data
    "DATA.TRAIN": Key("", "videos or images: a list of `path label` lines, class folders, or tar shards (path or URL)"),
    "DATA.VAL": Key("", "the same, to evaluate during training and to test"),
    "DATA.TEST": Key("", "the same, to test; empty = DATA.VAL"),
    "DATA.ROOT": Key("", "folder of relative paths in a list or in shards; empty = the list's folder"),
    "DATA.CLASSES": Key("", "file with one class name per line; empty = names of the folders or the list, or numbers"),
    "DATA.NUM_FRAMES": Key(8, "frames of a clip", low=1),
    "DATA.SAMPLING_RATE": Key(8, "temporal stride between sampled frames", low=1),
    "DATA.SAMPLING": Key("even", "rule for frames: docs/data.md", choices=("even", "pyslowfast", "pytorchvideo")),
    "DATA.TRAIN_CROP": Key(224, "square, pixels", low=1),
    "DATA.TEST_CROP": Key(256, "square, pixels", low=1),
    "DATA.TRAIN_SHORT_SIDE": Key([256, 320], "range for scale jitter, pixels", low=1, lengths=(2,)),
    "DATA.TEST_SHORT_SIDE": Key(256, "pixels", low=1),
    "DATA.RANDOM_RESIZED_CROP": Key([], "instead of scale jitter: area from, to, aspect from, to; [] = off", low=None),
    "DATA.FLIP": Key(0.5, "probability of a horizontal flip in training", high=1),
    "DATA.COLOR_JITTER": Key(0.0, "strength for brightness, contrast and saturation in training; 0 = off", below=1e9),
    "DATA.RANDAUGMENT": Key([0, 0], "operations per clip, magnitude from 0 to 30; [0, 0] = off", low=None),
    "DATA.RANDOM_ERASING": Key(0.0, "probability that a box of 2 to 33 % of a clip becomes noise", high=1),
    "DATA.REPEATS": Key(1, "clips per video in a batch, each augmented differently (repeated augmentation)", low=1),
    "DATA.MEAN": Key([0.45, 0.45, 0.45], "per channel, of frames in [0, 1]", high=1, lengths=(3,)),
    "DATA.STD": Key([0.225, 0.225, 0.225], "per channel; frames are divided by it", low=1e-3, lengths=(3,)),
    "DATA.ITEM_TIMEOUT": Key(60.0, "seconds to read a video in a worker process; 0 = read in the loader"),
    "DATA.DECODER": Key(
        "auto", "auto = decord where exact, else PyAV", choices=("auto", "decord", "pyav", "torchcodec")
    ),
    "DATA.FPS": Key(25.0, "frames per second of a video that is a folder of numbered images", low=0.01),
    "DATA.RETRIES": Key(2, "further attempts to read a video before it counts as failed"),
    "DATA.MAX_FAILED": Key(0.1, "share of videos that may fail before a run stops with an error", high=1),
    # ------------------------------------------------------------ training
    "TRAIN.ENABLE": Key(True, "train"),
    "TRAIN.CHECKPOINT": Key("", "weights to start from, path or URL: docs/checkpoints.md; empty = from scratch"),
    "TRAIN.INFLATE": Key("mean", "how 2D kernels of TRAIN.CHECKPOINT become 3D", choices=("mean", "centre")),
    "TRAIN.TEACHER": Key("", "network to learn from, path, URL or name: docs/training.md; empty = labels alone"),
    "TRAIN.TEACHER_WEIGHT": Key(
        0.9, "share of the teacher in the loss, the rest is the labels'; 1 = no labels", high=1
    ),
    "TRAIN.TEACHER_TEMPERATURE": Key(4.0, "divides the logits of both networks; above 1 = softer answers", low=0.1),
    "TRAIN.RESUME": Key(True, "resume from the newest readable checkpoint in OUTPUT_DIR"),
    "TRAIN.STEPS": Key(300_000, "optimizer steps", low=1),
    "TRAIN.EPOCHS": Key(0.0, "passes over the training videos, instead of TRAIN.STEPS; 0 = TRAIN.STEPS", below=1e9),
    "TRAIN.BATCH_SIZE": Key(64, "clips per optimizer step, over all ranks and accumulated parts", low=1),
    "TRAIN.ACCUMULATE": Key(1, "parts that each rank splits a batch into", low=1),
    "TRAIN.PRECISION": Key("fp32", "of autocast", choices=("fp32", "bf16", "fp16")),
    "TRAIN.LABEL_SMOOTHING": Key(0.0, "0 = off", high=1),
    "TRAIN.MIXUP": Key(0.0, "alpha of mixup; 0 = off; with TRAIN.CUTMIX each batch draws one of both"),
    "TRAIN.CUTMIX": Key(0.0, "alpha of cutmix; 0 = off"),
    "TRAIN.CLIP_GRAD_NORM": Key(0.0, "largest gradient norm; 0 = off"),
    "TRAIN.EMA": Key(0.0, "decay of the moving average of the weights, used for evaluation; 0 = off", below=1),
    "TRAIN.SYNC_BN": Key(False, "batch norm over the batch of all ranks"),
    "TRAIN.PRECISE_BN": Key(0, "batches for exact batch norm statistics before an evaluation; 0 = off"),
    "TRAIN.RECOMPUTE": Key([], "stages to recompute in the backward pass: less memory, more time", low=2, high=5),
    "TRAIN.COMPILE": Key("", "backend of torch.compile, usually inductor; empty = off"),
    "TRAIN.WANDB": Key("", "Weights & Biases project to log to (pip install wandb); empty = off"),
    "TRAIN.CHECKPOINT_EVERY": Key(1000, "steps between checkpoints", low=1),
    "TRAIN.KEEP_CHECKPOINTS": Key(2, "newest step checkpoints to keep, in addition to the best", low=1),
    "TRAIN.EVAL_EVERY": Key(10_000, "steps between evaluations; 0 = never"),
    "TRAIN.EVAL_VIDEOS": Key(0, "videos of an evaluation, spread over the list; 0 = all"),
    "TRAIN.EVAL_CLIPS": Key(1, "clips per video in an evaluation", low=1),
    "TRAIN.EVAL_CROPS": Key(1, "crops per clip in an evaluation", choices=(1, 3)),
    "TRAIN.PATIENCE": Key(0, "evaluations without improvement after which training stops; 0 = train all steps"),
    "TRAIN.LOG_EVERY": Key(10, "steps between lines of log.jsonl", low=1),
    "SOLVER.OPTIMIZER": Key("sgd", "optimizer", choices=("sgd", "adamw")),
    "SOLVER.BASE_LR": Key(0.1, "learning rate for a batch of BASE_BATCH_SIZE, scaled linearly with TRAIN.BATCH_SIZE"),
    "SOLVER.BASE_BATCH_SIZE": Key(64, "0 = do not scale BASE_LR"),
    "SOLVER.MOMENTUM": Key(0.9, "sgd", below=1),
    "SOLVER.NESTEROV": Key(True, "sgd"),
    "SOLVER.WEIGHT_DECAY": Key(1e-4, "of weights; of norms and biases see DECAY_NORM"),
    "SOLVER.DECAY_NORM": Key(False, "weight decay on norm parameters and biases too"),
    "SOLVER.SCHEDULE": Key("cosine", "of the learning rate", choices=("cosine", "steps")),
    "SOLVER.WARMUP_STEPS": Key(0, "steps with a linearly growing learning rate"),
    "SOLVER.WARMUP_START": Key(0.01, "first learning rate, as a share of the full one", high=1),
    "SOLVER.END_LR": Key(0.0, "cosine: last learning rate, as a share of the full one", high=1),
    "SOLVER.MILESTONES": Key([0.5, 0.75], "steps: where the rate drops, as shares of TRAIN.STEPS", below=1),
    "SOLVER.GAMMA": Key(0.1, "steps: factor of a drop"),
    # ------------------------------------------------------------ testing
    "TEST.ENABLE": Key(True, "test"),
    "TEST.CHECKPOINT": Key("", "weights to test, path or URL; empty = TEST.WEIGHTS"),
    "TEST.WEIGHTS": Key(
        "last", "which weights of OUTPUT_DIR to test; best = those that validated best", choices=("last", "best")
    ),
    "TEST.NUM_CLIPS": Key(10, "clips spread over a video", low=1),
    "TEST.NUM_CROPS": Key(3, "1 = centre; 3 = left, centre, right, or top, centre, bottom if upright", choices=(1, 3)),
    "TEST.MAX_VIEWS": Key(16, "views in one forward pass; changes memory, not results", low=1),
    "TEST.BACKEND": Key(
        "auto",
        "on a CPU; auto = OpenVINO if the network was converted before or the list is long, else torch",
        choices=("auto", "torch", "openvino", "onnxruntime"),
    ),
    "TEST.SCALES": Key([], "short sides to test again at, each also the crop, pixels (Table 7); [] = off", low=1),
    "TEST.AVERAGE": Key("softmax", "what is averaged over the views", choices=("softmax", "logits")),
}


def get_defaults() -> CfgNode:
    """Return a new configuration with all defaults."""
    cfg = CfgNode()
    for name, key in KEYS.items():
        *path, leaf = name.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[leaf] = deepcopy(key.default)
    return cfg
