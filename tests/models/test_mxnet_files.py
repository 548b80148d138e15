"""MXNet's ``.params`` files, written from the format's description without the reader's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mxnet_file import params

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights, read_checkpoint, state_of

ARRAYS = {
    "arg:conv-h2h_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) - 7.5,
    "aux:bn-h_moving_var": np.array([0.5, 2.0], np.float16),
    "count": np.array([3], np.int64),
}


@pytest.mark.parametrize("magic", [0xF993FAC8, 0xF993FAC9, 0xF993FACA])
def test_arrays_and_names_are_read(tmp_path: Path, magic: int) -> None:
    file = tmp_path / "net.params"
    file.write_bytes(params(ARRAYS, magic))
    state = state_of(read_checkpoint(file), file)
    assert list(state) == ["conv-h2h_weight", "bn-h_moving_var", "count"]
    for value, array in zip(state.values(), ARRAYS.values()):
        assert np.array_equal(value.numpy(), array) and value.numpy().dtype == array.dtype


def test_broken_file_is_a_user_error(tmp_path: Path) -> None:
    file, content = tmp_path / "net.params", params(ARRAYS)
    for broken, reason in (
        (content[:-3], "cut short"),
        (content[:100], "cut short"),
        (params(ARRAYS, storage=1), "sparse"),
        (params(ARRAYS, magic=2), "begins with 0x2"),
    ):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=rf"net\.params: not a readable checkpoint.*{reason}"):
            read_checkpoint(file)
    file.write_bytes(content)
    net = build_model(load_cfg(None, "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8".split()))
    with pytest.raises(UserError, match=r"net\.params: .*the first is conv-h2h_weight"):
        load_weights(net, file)
