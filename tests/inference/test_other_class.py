from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import CLASSES

from octvideo.engine.checkpoints import save_checkpoint
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.inference.other_class import add_other, fit_row


def test_row_separates_other_features() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 8), torch.randn(3)
    known, other = torch.randn(40, 8) + 2, torch.randn(60, 8) - 2
    row, offset = fit_row(weight, bias, known, other)
    for features, wanted in ((known, False), (other, True)):
        others = features @ row + offset > (features @ weight.T + bias).logsumexp(1)
        assert (others == wanted).float().mean() > 0.95


def test_network_ranks_its_classes_as_before(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    known = [data / "weizmann/bend/lena_bend.avi"]
    other = [data / "clips/actions/mmaction2_part_0.mp4"]
    save_checkpoint(add_other(checkpoint, known, other), tmp_path / "with_other.pt")
    before, after = Predictor(checkpoint, device="cpu"), Predictor(tmp_path / "with_other.pt", device="cpu")
    assert after.classes == before.classes == tuple(CLASSES)
    scores = {}
    for path in (*known, *other):
        (first, *_), rows = before.predict(path, 9), after.predict(path, 9)
        assert rows[0].label == first.label
        scores[path] = sum(row.score for row in rows)
    assert scores[known[0]] > 0.6 > 0.4 > scores[other[0]]


def test_network_without_linear_end_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["model"]["blocks.6.proj.weight"]
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="one linear layer"):
        add_other(tmp_path / "bad.pt", [], [])
