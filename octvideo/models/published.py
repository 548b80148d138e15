"""The published weights: files of this project and of others, and the configurations that they fit.

Plain data, without torch. ``benchmarks/zoo.py`` writes docs/zoo.md from it; ``octvideo.models.zoo`` finds weights by
name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["ROOT", "WEIGHTS", "Published"]

ROOT = "https://dl.fbaipublicfiles.com/"  # of most files; a mirror can replace it
_PTV = f"{ROOT}pytorchvideo/model_zoo/kinetics/"
_PSF = f"{ROOT}pyslowfast/model_zoo/kinetics400/"
_NLN = f"{ROOT}video-nonlocal/"
_MMA = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/"
_MEAN = "DATA.MEAN [0.485,0.456,0.406] DATA.STD [0.229,0.224,0.225]"
_K400 = "kinetics400_classes.txt"


class Published(NamedTuple):
    """Published weights.

    Attributes:
        source: the project.
        name: of the file or of the network.
        address: of the file (of its folder if it ends in a slash), or of a page that links to it; "" if it is shipped
            in ``octvideo/assets``.
        networks: configurations they fit; without ``oct_`` for both twins, without data set for all data sets.
        keys: further keys to set.
        top1: as published: on Kinetics-400, 30 views, or of images on ImageNet, one crop.
        tag: what ``create_model(pretrained=...)`` calls them; "" if they are loaded by path or URL alone.
        classes: file of class names in ``octvideo/assets``; "" if the file of weights has them.
        alpha: of the network that was trained; at another alpha they are a warm start.
        sha256: of the file, where known.
    """

    source: str
    name: str
    address: str
    networks: tuple[str, ...]
    keys: str = ""
    top1: str = ""
    tag: str = ""
    classes: str = ""
    alpha: float = 0.0
    sha256: str = ""

    @property
    def url(self) -> str:
        """The address of the file, or of the page."""
        return self.address + self.name * self.address.endswith("/")

    def fit(self, config: str) -> bool:
        """Return whether a configuration, such as ``kinetics400/oct_i3d_k400``, can start from them."""
        name = re.sub(r"(?:kinetics\d+|imagenet)/(\w+)_(?:k\d+|in1k)", r"\1", config)
        return bool({name, name.removeprefix("oct_")} & set(self.networks))


_IMAGE_FITS = ("c2d", "i3d", "i3d_nln", "resnet50")
_AUTHORS = f"{ROOT}octconv/"
_SYMBOLS = "OCTAVE.POOL_VANILLA True DATA.MEAN [0.4863,0.4588,0.4078] DATA.STD [0.2348,0.2348,0.2348]"
_UNPADDED = "MODEL.STEM_POOL_PADDED False"
_EVERY = "MODEL.SLOWFAST.SLOW_FRAMES every"


def _hub(file: str, network: str, top1: str) -> Published:
    return Published("PyTorchVideo", f"{file}.pyth", _PTV, (network,), "", top1, tag="k400", classes=_K400)


def _torchvision(version: str, file: str, top1: str) -> Published:
    address = f"https://download.pytorch.org/models/{file}"
    return Published("torchvision", f"ResNet-50 {version}", address, _IMAGE_FITS, _MEAN, f"{top1} (images)")


def _authors(file: str, network: str, top1: str) -> Published:
    keys = f"OCTAVE.POOL_VANILLA True {_MEAN}" if file.endswith(".params") else _SYMBOLS
    return Published("the paper's authors", file, _AUTHORS + file, (f"oct_{network}",), keys, f"{top1} (images)")


# docs/checkpoints.md has what each needs, and how that was checked.
WEIGHTS = (
    _hub("X3D_XS", "x3d_xs", "69.12"),
    _hub("X3D_S", "x3d_s", "73.33"),
    _hub("X3D_M", "x3d_m", "75.94"),
    _hub("X3D_L", "x3d_l", "77.44"),
    _hub("C2D_8x8_R50", "c2d", "71.46"),
    _hub("I3D_8x8_R50", "i3d", "73.27"),
    _hub("SLOW_4x16_R50", "slow_4x16", "72.40"),
    _hub("SLOW_8x8_R50", "slow", "74.58"),
    _hub("SLOWFAST_4x16_R50", "slowfast", "75.34"),
    _hub("SLOWFAST_8x8_R50", "slowfast_8x8", "76.94"),
    _hub("SLOWFAST_8x8_R101", "slowfast_8x8_r101", "77.90"),
    _hub("SLOWFAST_16x8_R101_50_50", "slowfast_16x8_r101_50_50", "78.70"),
    _hub("CSN_32x2_R101", "csn_r101", "77.00"),
    _hub("R2PLUS1D_16x4_R50", "r2plus1d_r50", "76.01"),
    Published("PySlowFast", "C2D_NOPOOL_8x8_R50.pkl", _PSF, ("c2d",), "MODEL.TEMPORAL_POOL False", "67.2"),
    Published("PySlowFast", "I3D_8x8_R50.pkl", _PSF, ("i3d",), "", "73.5"),
    Published("PySlowFast", "I3D_NLN_8x8_R50.pkl", _PSF, ("i3d_nln",), "", "74.0", tag="k400", classes=_K400),
    Published("PySlowFast", "SLOWFAST_4x16_R50.pkl", _PSF, ("slowfast",), "", "75.6"),
    Published("PySlowFast", "SLOWFAST_8x8_R50.pkl", _PSF, ("slowfast_8x8",), "", "77.0"),
    Published("PySlowFast", "SLOWONLY_4x16_R50.pkl", _PSF, ("slow_4x16",), "", "72.7"),
    Published("PySlowFast", "SLOWONLY_8x8_R50.pkl", _PSF, ("slow",), "", "74.8"),
    Published("nonlocal-net", "c2d_baseline_8x8_IN_pretrain_400k.pkl", _NLN, ("c2d",), _UNPADDED, "71.9"),
    Published("nonlocal-net", "i3d_baseline_8x8_IN_pretrain_400k.pkl", _NLN, ("i3d",), _UNPADDED, "73.4"),
    Published("nonlocal-net", "i3d_nonlocal_8x8_IN_pretrain_400k.pkl", _NLN, ("i3d_nln",), _UNPADDED, "74.7"),
    Published(
        "mmaction2",
        "I3D 32x2 R50",
        f"{_MMA}i3d",
        ("i3d",),
        f"MODEL.STEM_TEMPORAL_STRIDE 4 DATA.NUM_FRAMES 32 DATA.SAMPLING_RATE 2 {_MEAN}",
        "73.47",
    ),
    Published(
        "mmaction2",
        "SlowFast 4x16 R50",
        f"{_MMA}slowfast",
        ("slowfast",),
        f"{_EVERY} MODEL.SLOWFAST.LATERAL_NORM False {_MEAN}",
        "75.55",
    ),
    Published(
        "mmaction2",
        "SlowFast 8x8 R50",
        f"{_MMA}slowfast",
        ("slowfast_8x8",),
        f"{_EVERY} MODEL.SLOWFAST.FUSION_KERNEL 5 {_MEAN}",
        "76.80",
    ),
    _torchvision("V1", "resnet50-0676ba61.pth", "76.13"),
    _torchvision("V2", "resnet50-11ad3fa6.pth", "80.86"),
    Published("timm", "resnet50.a1_in1k", "https://huggingface.co/timm/resnet50.a1_in1k", _IMAGE_FITS, _MEAN),
    Published(
        "d-li14",
        "Oct-ResNet-50, alpha 0.5",
        "https://github.com/d-li14/octconv.pytorch",
        ("oct_c2d", "oct_i3d"),
        f"OCTAVE.ALPHA 0.5 OCTAVE.POOL_LEAVING True {_MEAN}",
        "77.64 (images)",
    ),
    _authors("ablation/a01_densenet-121_alpha-0.125.tar", "densenet121", "76.1"),
    _authors("ablation/a02_resnet-26_alpha-0.250.tar", "resnet26_preact", "76.1"),
    _authors("ablation/a03_resnet-50_alpha-0.500.tar", "resnet50_preact", "77.4"),
    _authors("ablation/a04_resnext-50_32x4d_alpha-0.250.tar", "resnext50_32x4d_preact", "78.8"),
    _authors("ablation/a05_se-resnet-50_alpha-0.125.tar", "se_resnet50_preact", "78.7"),
    _authors("ablation/a06_resnet-101_alpha-0.125.tar", "resnet101_preact", "79.2"),
    _authors("others/mobilenet_v2_100_alpha-0.375.params", "mobilenet_v2_100", "72.0"),
    _authors("others/resnet152_v1f_alpha-0.125.params", "resnet152_v1f", "81.4"),
    Published("octvideo", "oct_i3d_weizmann.pt", "", ("weizmann/oct_i3d", "oct_small"), tag="weizmann", alpha=0.5),
    Published("octvideo", "i3d_weizmann.pt", "", ("weizmann/i3d", "small"), tag="weizmann"),
)
