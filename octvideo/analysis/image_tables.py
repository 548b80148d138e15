"""Count the networks of Tables 2 to 5 and 9 (ImageNet), next to the figures that the paper prints.

Strided layers pool first, also those of one frequency (``pool_vanilla``), as in the authors' networks. Pooling and
ReLUs are counted, but no ReLUs in Table 3. Its vanilla rows are figures of the original papers, which count
convolutions and the classifier only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from octvideo.models.image.networks import create_image_network
from octvideo.models.insertion import Octave
from octvideo.octave.complexity import count

__all__ = ["IMAGE_TABLES", "image_table_rows"]


@dataclass(frozen=True)
class _Row:
    model: str  # as in the paper
    network: str  # a key of octvideo.architectures.IMAGE_NETWORKS
    alpha: float
    gflops: float
    params_m: float | None = None
    size: int = 224
    pooling: bool = True
    relus: bool = True


def _table_9() -> Iterator[_Row]:
    alphas = (0.0, 0.125, 0.25, 0.5, 0.75)
    printed = {
        "resnet26": (2.353, 2.102, 1.871, 1.491, 1.216),
        "densenet121": (2.852, 2.428, 2.044, None, None),
        "resnet50": (4.105, 3.587, 3.123, 2.383, 1.891),
        "se_resnet50": (4.113, 3.594, 3.130, 2.389, 1.896),
        "resnext50_32x4d": (4.250, None, 3.196, 2.406, 1.891),
        "resnet101": (7.822, 6.656, 5.625, 4.012, None),
        "resnext101_32x4d": (7.993, None, 5.719, 4.050, None),
        "resnet200": (15.044, 12.623, 10.497, 7.183, None),
    }
    for model, figures in printed.items():
        network = model if model == "densenet121" else f"{model}_preact"
        for alpha, gflops in zip(alphas, figures):
            if gflops is not None:
                yield _Row(model, network, alpha, gflops)


IMAGE_TABLES: dict[int, tuple[_Row, ...]] = {
    2: tuple(
        _Row("resnet50", "resnet50_preact", alpha, gflops)
        for alpha, gflops in ((0.0, 4.1), (0.125, 3.6), (0.25, 3.1), (0.5, 2.4), (0.75, 1.9))
    ),
    3: (
        _Row("mobilenet_v1_075", "mobilenet_v1_075", 0.0, 0.325, 2.6, pooling=False, relus=False),
        _Row("mobilenet_v1_075", "mobilenet_v1_075", 0.375, 0.213, 2.6, relus=False),
        _Row("mobilenet_v1_100", "mobilenet_v1_100", 0.5, 0.321, 4.2, relus=False),
        _Row("mobilenet_v2_100", "mobilenet_v2", 0.0, 0.300, 3.5, pooling=False, relus=False),
        _Row("mobilenet_v2_100", "mobilenet_v2_100", 0.375, 0.256, 3.5, relus=False),
        _Row("mobilenet_v2_1125", "mobilenet_v2_1125", 0.5, 0.295, 4.2, relus=False),
    ),
    4: (
        _Row("resnet26", "resnet26_preact", 0.25, 1.9, 16.0),
        _Row("resnet50", "resnet50_preact", 0.5, 2.4, 25.6),
        _Row("resnet50_glore", "resnet50_glore_preact", 0.0, 5.2, 30.5),
        _Row("resnet50_glore", "resnet50_glore_preact", 0.5, 3.1, 30.5),
        _Row("resnext50_32x4d", "resnext50_32x4d_preact", 0.25, 3.2, 25.0),
        _Row("resnext101_32x4d", "resnext101_32x4d_preact", 0.25, 5.7, 44.2),
        _Row("resnet50_blstem", "resnet50_blstem", 0.5, 2.5, 25.6),
        _Row("resnext50_32x4d_blstem", "resnext50_32x4d_blstem", 0.5, 2.7, 25.1),
        _Row("resnext101_32x4d_blstem_balanced", "resnext101_32x4d_blstem_balanced", 0.5, 4.2, 40.1),
        _Row("resnext101_32x4d_blstem", "resnext101_32x4d_blstem", 0.5, 4.2, 44.2),
        _Row("resnext101_32x4d", "resnext101_32x4d_preact", 0.5, 4.0, 44.2),
    ),
    5: tuple(
        _Row(model, model, 0.125, gflops, params_m, size)
        for model, params_m in (("resnet152_v1f", 60.2), ("se_resnet152_v1e", 66.8))
        for size, gflops in ((224, 10.9), (320, 22.2))
    ),
    9: tuple(_table_9()),
}


def image_table_rows(table: int) -> Iterator[dict[str, object]]:
    """Yield the rows of a table, see ``paper_tables.table_rows``: one image of ``input`` x ``input`` pixels."""
    for row in IMAGE_TABLES[table]:
        with torch.device("meta"):  # no weights are needed
            network = create_image_network(row.network, Octave(row.alpha, pool_vanilla=True))
        measured = count(network, (1, 3, row.size, row.size))
        operations = measured.multiply_adds + row.pooling * measured.pooling + row.relus * measured.relus
        yield {
            "model": row.model,
            "alpha": row.alpha,
            "paper_gflops": row.gflops,
            "gflops": operations / 1e9,
            "paper_params_m": row.params_m,
            "params_m": measured.params / 1e6,
            "input": row.size,
            "network": row.network,
        }
