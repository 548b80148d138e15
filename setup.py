"""The package: octvideo itself, and in its wheel ``configs/`` as ``octvideo/configs``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (HERE / "octvideo" / "__init__.py").read_text(encoding="utf-8"))
KINETICS = ["yt-dlp>=2025.1.15"]  # data_tools/kinetics_*.py
# data_tools/make_shards.py, and shards on other storages; some of these need a package more: s3fs, gcsfs, ...
SHARDS = ["fsspec[http]>=2023.6", "webdataset>=0.2.86"]
DOCS = ["sphinx>=8.1", "myst-parser>=4", "pydata-sphinx-theme>=0.16", "sphinx-copybutton>=0.5"]


class BuildWithConfigs(build_py):
    """Copy the configurations into a wheel; an editable installation reads those of the clone.

    As a package of their own, ``package_dir`` would have to say where they are, and then an editable installation would
    be a finder, not a path: from the folder that has the clone, ``import octvideo`` would find the clone's own folder.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            for path in (HERE / "configs").rglob("*.yaml"):
                target = Path(self.build_lib) / "octvideo" / path.relative_to(HERE)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(
    name="octvideo",
    version=VERSION[1],
    description="Action recognition in video with 3D Octave Convolution, on PyTorchVideo",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["octvideo", "octvideo.*"]),
    package_dir={"": "."},  # said, it makes an editable installation a path
    package_data={"octvideo": ["py.typed", "assets/*"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "pytorchvideo==0.1.5",
        # Elsewhere decord has no wheels (for Intel macOS they end with Python 3.8), and PyAV reads the videos.
        'decord>=0.6; platform_machine == "x86_64" and sys_platform != "darwin" or platform_machine == "AMD64"',
        # The fastest runtime on a CPU: 180 MB installed. `--backend auto` does without where there is no wheel.
        'openvino>=2024.4; platform_machine in "x86_64 AMD64 aarch64 arm64"',
        # 16 turns BT.709 and full range into RGB with BT.601's matrix, 17.0 crashes where it opens MPEG program streams
        # with options. octvideo/data/decoders/stream.py has the same number.
        "av>=17.1",
        "fvcore>=0.1.5.post20221221",
        "yacs>=0.1.8",
        "submitit>=1.5",
        "tensorboard>=2.12",
        "tqdm>=4.60",
        "matplotlib>=3.7",
        "jinja2>=3.1",
        "Pillow>=10.1",
        "numpy>=1.24",
        "PyYAML>=6",
    ],
    extras_require={
        "parquet": ["pyarrow>=14"],
        "export": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"],
        "int8": ["nncf>=2.14"],
        "app": ["gradio>=6.7"],
        "window": ["opencv-python>=4.8"],
        # Each release fits one or two of PyTorch (0.17 was tried with 2.15); FFmpeg's shared libraries must be there.
        "torchcodec": ["torchcodec>=0.10"],
        "docs": DOCS,
        "kinetics": KINETICS,
        "shards": SHARDS,
        "safetensors": ["safetensors>=0.4"],
        "wandb": ["wandb>=0.17"],
        "dev": [
            *DOCS,
            *KINETICS,
            *SHARDS,
            "build",
            "hypothesis",
            "ipykernel",
            "mypy>=1.10",
            "nbclient>=0.10",
            "nncf>=2.14",
            "playwright>=1.49",  # drives the Chromium of the system
            "opencv-python>=4.8",
            "pre-commit",
            "pyarrow>=14",
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "python-xlib",
            "ruff>=0.6",
            "safetensors>=0.4",
            "setuptools>=77",
            "timm>=1.0",
            "twine>=6",
            "types-PyYAML",
            "wandb>=0.17",
        ],
    },
    entry_points={"console_scripts": ["octvideo = octvideo.cli.main:entry"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
