"""Every configuration key, with its default and one comment. The only place where keys are defined."""

from fvcore.common.config import CfgNode

_C = CfgNode()

_C.OUTPUT_DIR = "output"  # everything a run leaves: config.yaml, log.jsonl, metrics.json, checkpoints, ...
_C.SEED = 0  # weights, data order and augmentation follow from it
_C.NUM_WORKERS = 2  # loader processes per rank; 0 loads in the main process
_C.NUM_THREADS = 0  # threads that a process computes with on a CPU; 0 = torch's choice
_C.DEVICE = "auto"  # auto (cuda where there is one) | cpu | cuda

# ---------------------------------------------------------------- network
_C.MODEL = CfgNode()
_C.MODEL.ARCH = "i3d"  # c2d | i3d | slow | slowfast, or an image network: docs/image_networks.md
_C.MODEL.NUM_CLASSES = 0  # 0 = those of the training data or of the weights; where there are none of both, 400
_C.MODEL.BLOCKS = [3, 4, 6, 3]  # blocks in res2..res5: ResNet-50; ResNet-101 is [3, 4, 23, 3]
_C.MODEL.WIDTH = 64  # channels after the stem; the bottleneck's outer width in res2 is 4x this
_C.MODEL.DROPOUT = 0.5  # before the classifier
_C.MODEL.STEM_KERNEL = []  # kernel (T, H, W) of the stem; [] = the architecture's own
_C.MODEL.STEM_TEMPORAL_STRIDE = 1  # the stem keeps every so many-th frame; 4 = mmaction2's I3D of 32 frames
_C.MODEL.STEM_POOL_PADDED = True  # True: PyTorchVideo's padded first pool; False: the paper's baselines (no padding)
_C.MODEL.TEMPORAL_POOL = True  # c2d and i3d: max pool of (2, 1, 1) after res2
_C.MODEL.TEMPORAL_KERNELS = []  # per stage, temporal kernels of conv_a, cycled over its blocks; [] = the architecture's
_C.MODEL.NONLOCAL = [[], [], [], []]  # per stage, indices of the blocks that a non-local block follows
_C.MODEL.CONV_AS_2D = False  # run 3D convolutions as equivalent 2D ones: much faster on a CPU, equal up to rounding

_C.MODEL.SLOWFAST = CfgNode()
_C.MODEL.SLOWFAST.FRAME_RATIO = 4  # frames of the Fast pathway per frame of the Slow one (SlowFast's alpha)
_C.MODEL.SLOWFAST.CHANNEL_RATIO = 8  # channels of the Slow pathway per channel of the Fast one (1 / beta)
_C.MODEL.SLOWFAST.FUSION_KERNEL = 7  # temporal kernel of the lateral connections
_C.MODEL.SLOWFAST.FUSION_RATIO = 2  # output channels of a lateral per input channel
_C.MODEL.SLOWFAST.LATERAL_NORM = True  # False: laterals are a convolution alone, as mmaction2's
_C.MODEL.SLOWFAST.SLOW_FRAMES = "spread"  # spread (first to last frame) | every (FRAME_RATIO-th, as mmaction2)

# ---------------------------------------------------------------- octave convolution
_C.OCTAVE = CfgNode()
_C.OCTAVE.ALPHA = 0.0  # share of low-frequency channels; 0 = the vanilla network
_C.OCTAVE.STAGES = [2, 3, 4]  # residual stages that work on two frequencies; add 5 for octave in res5 too
_C.OCTAVE.MULTIPLE = 1  # low channels rounded to a multiple of this; 1 = the paper
_C.OCTAVE.DOWNSAMPLE = "avg"  # avg | max | conv (strided): the ablation of Table 8
_C.OCTAVE.HIGH_TO_LOW = True  # False switches the path off (Table 8)
_C.OCTAVE.LOW_TO_HIGH = True  # False switches the path off (Table 8)
_C.OCTAVE.POOL_STRIDED_LOW_TO_HIGH = False  # stride 2, low to high: pool and upsample instead of a plain convolution
_C.OCTAVE.UPSAMPLE_FIRST = False  # low to high: upsample, then convolve; with DOWNSAMPLE max that is MG-Conv
_C.OCTAVE.POOL_VANILLA = False  # strided layers of one frequency are pooled first too, as in the authors' networks
_C.OCTAVE.POOL_LEAVING = False  # stage after the last octave one: pool before its strided 3x3, as d-li14's Oct-ResNets
_C.OCTAVE.FAST_ALPHA = 0.0  # alpha of SlowFast's Fast pathway

# ---------------------------------------------------------------- data
_C.DATA = CfgNode()
_C.DATA.TRAIN = ""  # videos or images: a list (`path label` a line), class folders, or tar shards (path or URL)
_C.DATA.VAL = ""  # the same, for evaluation during training and for testing
_C.DATA.TEST = ""  # the same, for testing; "" = DATA.VAL
_C.DATA.ROOT = ""  # put before relative paths of a list file or of shards; "" = the list's own folder
_C.DATA.CLASSES = ""  # class names, one a line; "" = those of the folders or of the list, or the numbers
_C.DATA.NUM_FRAMES = 8  # frames of a clip
_C.DATA.SAMPLING_RATE = 8  # one frame is taken of so many
_C.DATA.SAMPLING = "even"  # even | pyslowfast | pytorchvideo: the rule for a clip's frames and starts (docs/data.md)
_C.DATA.TRAIN_CROP = 224  # pixels, square
_C.DATA.TEST_CROP = 256  # pixels, square
_C.DATA.TRAIN_SHORT_SIDE = [256, 320]  # range of the short side in training (scale jitter), pixels
_C.DATA.TEST_SHORT_SIDE = 256  # pixels
_C.DATA.RANDOM_RESIZED_CROP = []  # in place of scale jitter: area share from, to, width / height from, to; [] = off
_C.DATA.FLIP = 0.5  # probability of a horizontal flip in training
_C.DATA.COLOR_JITTER = 0.0  # strength of brightness, contrast and saturation jitter in training; 0 = off
_C.DATA.RANDAUGMENT = [0, 0]  # operations per clip, and their magnitude of 0 to 30; [0, 0] = off
_C.DATA.RANDOM_ERASING = 0.0  # probability that a box of 2 to 33 % of a clip becomes noise
_C.DATA.REPEATS = 1  # clips of each video in a batch, each augmented by itself (repeated augmentation)
_C.DATA.MEAN = [0.45, 0.45, 0.45]  # per channel, of frames in [0, 1]
_C.DATA.STD = [0.225, 0.225, 0.225]
_C.DATA.ITEM_TIMEOUT = 60.0  # seconds that an attempt to read a video may take in its own process; 0 = no such process
_C.DATA.DECODER = "auto"  # auto (decord where it numbers frames right, PyAV elsewhere) | decord | pyav | torchcodec
_C.DATA.RETRIES = 2  # further attempts to read a video before it counts as failed
_C.DATA.MAX_FAILED = 0.1  # share of videos that may fail before a run stops with an error

# ---------------------------------------------------------------- training
_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True
_C.TRAIN.CHECKPOINT = (
    ""  # weights to start from: path or URL (docs/checkpoints.md); a head of other classes is replaced
)
_C.TRAIN.INFLATE = "mean"  # mean | centre: how 2D kernels of TRAIN.CHECKPOINT become 3D
_C.TRAIN.RESUME = True  # go on from the newest good checkpoint in OUTPUT_DIR
_C.TRAIN.STEPS = 300000  # optimiser steps
_C.TRAIN.EPOCHS = 0.0  # passes over the training videos, in place of TRAIN.STEPS; 0 = TRAIN.STEPS
_C.TRAIN.BATCH_SIZE = 64  # clips per optimiser step, over all ranks and accumulated parts
_C.TRAIN.ACCUMULATE = 1  # parts a batch is split into on each rank
_C.TRAIN.PRECISION = "fp32"  # fp32 | bf16 | fp16 (autocast)
_C.TRAIN.LABEL_SMOOTHING = 0.0
_C.TRAIN.MIXUP = 0.0  # alpha of mixup; 0 = off; with TRAIN.CUTMIX too, one of both is drawn for each batch
_C.TRAIN.CUTMIX = 0.0  # alpha of cutmix; 0 = off
_C.TRAIN.CLIP_GRAD_NORM = 0.0  # 0 = off
_C.TRAIN.EMA = 0.0  # decay of a moving average of the weights, which is what is evaluated, tested and kept; 0 = off
_C.TRAIN.SYNC_BN = False  # batch norm over the batch of all processes, not of each
_C.TRAIN.PRECISE_BN = 0  # batches whose true mean and variance replace the running ones before an evaluation; 0 = off
_C.TRAIN.RECOMPUTE = []  # stages (2 to 5) that are computed again in the backward pass: less memory, more time
_C.TRAIN.COMPILE = ""  # torch.compile's backend, usually inductor; "" = off
_C.TRAIN.WANDB = ""  # a project of Weights & Biases that gets the log too (pip install wandb); "" = none
_C.TRAIN.CHECKPOINT_EVERY = 1000  # steps
_C.TRAIN.KEEP_CHECKPOINTS = 2  # newest step checkpoints kept, beside the best
_C.TRAIN.EVAL_EVERY = 10000  # steps between evaluations; 0 = never
_C.TRAIN.EVAL_VIDEOS = 0  # videos of an evaluation, spread over the list; 0 = all
_C.TRAIN.EVAL_CLIPS = 1  # clips of a video in an evaluation
_C.TRAIN.EVAL_CROPS = 1  # 1 or 3
_C.TRAIN.LOG_EVERY = 10  # steps between lines of log.jsonl

_C.SOLVER = CfgNode()
_C.SOLVER.OPTIMIZER = "sgd"  # sgd | adamw
_C.SOLVER.BASE_LR = 0.1  # for a batch of BASE_BATCH_SIZE; scaled linearly with TRAIN.BATCH_SIZE
_C.SOLVER.BASE_BATCH_SIZE = 64  # 0 = BASE_LR is used as it is
_C.SOLVER.MOMENTUM = 0.9  # sgd
_C.SOLVER.NESTEROV = True  # sgd
_C.SOLVER.WEIGHT_DECAY = 1e-4
_C.SOLVER.DECAY_NORM = False  # weight decay on norm parameters and biases too
_C.SOLVER.SCHEDULE = "cosine"  # cosine | steps
_C.SOLVER.WARMUP_STEPS = 0
_C.SOLVER.WARMUP_START = 0.01  # first learning rate, as a share of the full one
_C.SOLVER.END_LR = 0.0  # cosine: last learning rate, as a share of the full one
_C.SOLVER.MILESTONES = [0.5, 0.75]  # steps: where the rate drops, as shares of TRAIN.STEPS
_C.SOLVER.GAMMA = 0.1  # steps: factor of a drop

# ---------------------------------------------------------------- testing
_C.TEST = CfgNode()
_C.TEST.ENABLE = True
_C.TEST.CHECKPOINT = ""  # weights to test, path or URL; "" = the last checkpoint in OUTPUT_DIR
_C.TEST.NUM_CLIPS = 10  # clips spread over a video
_C.TEST.NUM_CROPS = 3  # 1 (centre) or 3 (left, centre, right; top, centre, bottom where upright)
_C.TEST.MAX_VIEWS = 16  # views that are forwarded at once; changes memory, not results
_C.TEST.SCALES = []  # tests again at each size: short side and crop in its place, pixels (Table 7); [] = off
_C.TEST.AVERAGE = "softmax"  # softmax | logits: what is averaged over the views


def get_defaults() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()
