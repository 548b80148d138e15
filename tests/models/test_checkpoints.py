"""Checkpoints of other projects: the same numbers under their names give the same logits."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import peer_names
import pytest
import torch
from pytorchvideo.models import hub
from torch import nn

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights, read_checkpoint, state_of
from octvideo.models.checkpoints.names import CAFFE2, MMACTION2, PYSLOWFAST, layout_of

BLOCKS = (1, 2, 3, 1)
SMALL = "MODEL.WIDTH 16 MODEL.NUM_CLASSES 5 MODEL.BLOCKS [1,2,3,1] DATA.TRAIN_CROP 64"
NONLOCALS = ((), (1,), (0, 2), ())
NETWORKS = {
    "c2d": "MODEL.ARCH c2d MODEL.TEMPORAL_POOL False",
    "i3d": "MODEL.ARCH i3d",
    "i3d_nln": "MODEL.ARCH i3d MODEL.NONLOCAL [[],[1],[0,2],[]]",
    "slow": "MODEL.ARCH slow",
    "slowfast": "MODEL.ARCH slowfast",
    "slowfast_bare": "MODEL.ARCH slowfast MODEL.SLOWFAST.LATERAL_NORM False MODEL.SLOWFAST.SLOW_FRAMES every",
}


def build(text: str, *more: str) -> nn.Module:
    return build_model(load_cfg(None, [*SMALL.split(), *text.split(), *more])).eval()


def randomise(net: nn.Module) -> nn.Module:
    state = net.state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1:
            value.normal_(float(key.endswith("weight")), 0.2)
    net.load_state_dict(state)
    return net


def layers_of(network: str) -> tuple[list[tuple], int, dict[tuple, str]]:
    """The layers of a test network, the number of its pathways, and what octvideo calls them."""
    pathways = 2 if network.startswith("slowfast") else 1
    nonlocals = NONLOCALS if network == "i3d_nln" else ((),) * 4
    layers = list(peer_names.layers(BLOCKS, pathways, nonlocals, network != "slowfast_bare"))
    ours = peer_names.octvideo(pathways, network.startswith("i3d"), nonlocals)
    return layers, pathways, {layer: ours(layer) for layer in layers}


def renamed(state: dict[str, torch.Tensor], network: str, peer: str) -> dict[str, torch.Tensor]:
    """The state of a test network under a peer's names."""
    layers, pathways, ours = layers_of(network)
    result = {}
    for layer in layers:
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if (value := state.get(f"{ours[layer]}.{leaf}")) is None:
                continue
            if peer == "caffe2":
                if name := peer_names.caffe2(BLOCKS)(layer, leaf):
                    result[name] = value
                continue
            name = peer_names.pyslowfast if peer == "pyslowfast" else peer_names.mmaction2(pathways)
            if peer == "mmaction2" and layer == ("head",) and leaf == "weight" and pathways == 2:
                fast = 16 * 32 // 8  # its head sees the Fast pathway's channels first
                value = torch.cat([value[:, -fast:], value[:, :-fast]], 1)
            result[f"{name(layer)}.{leaf}"] = value
    counters = sum(key.endswith("num_batches_tracked") for key in state)
    assert len(result) == len(state) - (counters if peer == "caffe2" else 0)
    return result


PAIRS = [
    *((network, peer) for network in NETWORKS for peer in ("pyslowfast", "caffe2") if network != "slowfast_bare"),
    *((network, "mmaction2") for network in NETWORKS if network != "i3d_nln"),
]


@pytest.mark.parametrize(("network", "peer"), PAIRS)
def test_peer_weights_give_equal_logits(tmp_path: Path, network: str, peer: str) -> None:
    torch.manual_seed(0)
    reference = randomise(build(NETWORKS[network]))
    state = renamed(reference.state_dict(), network, peer)
    file = tmp_path / "peer"
    if peer == "caffe2":
        optimiser = {"lr": np.float32(0.1), "model_iter": np.array([7]), "conv1_w_momentum": np.zeros(3, np.float32)}
        blobs = {key: value.numpy() for key, value in state.items()} | optimiser
        file.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    else:
        torch.save({"model_state" if peer == "pyslowfast" else "state_dict": state, "epoch": 3, "meta": {}}, file)
    frames = 8
    clips = torch.randn(2, 3, frames, 64, 64)
    twin = build(NETWORKS[network])
    report = load_weights(twin, file, strict=True)
    assert {"pyslowfast": "PySlowFast", "caffe2": "Caffe2"}.get(peer, peer) == report.layout
    assert len(report.matched) == len(state) and not (report.missing or report.unexpected or report.replaced)
    with torch.inference_mode():
        expected = reference(clips)
        assert expected.std() > 0.01
        assert torch.equal(twin(clips), expected)
    octave = build(NETWORKS[network], "OCTAVE.ALPHA", "0.25")
    load_weights(octave, file, strict=True)
    for key, value in reference.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(octave.state_dict()[key], value), key


def test_python_2_pickle_is_read(tmp_path: Path) -> None:
    """The zoo's files are of Python 2: byte strings hold the arrays."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
    data = array.tobytes()
    file = tmp_path / "python2.pkl"
    name = b"res2_0_branch2a_w"
    file.write_bytes(
        b"\x80\x02}U\x05blobs}U" + bytes([len(name)]) + name
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(data)]) + data + b"tbss."
    )  # fmt: skip
    state = state_of(read_checkpoint(file), file)
    assert list(state) == ["res2_0_branch2a_w"]
    assert np.array_equal(state["res2_0_branch2a_w"].numpy(), array)


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "was run",)

    for protocol in (2, 4):
        (tmp_path / "code.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Code()}}, protocol=protocol))
        with pytest.raises(UserError, match=r"code\.pkl: not a readable checkpoint.*only arrays are read"):
            read_checkpoint(tmp_path / "code.pkl")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": Code()}, tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"code\.pth: not a readable checkpoint.*save its state dict alone"):
        read_checkpoint(tmp_path / "code.pth")
    assert not (tmp_path / "was run").exists()


def test_mmaction2_log_objects_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files have objects of mmengine in them, with arrays and bound methods inside."""
    ran = []

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history, self.method = np.arange(3.0), self.mean

        def mean(self) -> None: ...

        def __setstate__(self, state: object) -> None:
            ran.append(state)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = HistoryBuffer
    torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "mm.pth")
    assert torch.equal(state_of(read_checkpoint(tmp_path / "mm.pth"), "mm.pth")["a"], torch.ones(2))
    assert not ran


def test_missing_pool_does_not_shift_names(tmp_path: Path) -> None:
    state = hub.c2d_r50(model_num_class=5).state_dict()  # has a pool after res2, so res3 is block 3
    torch.save({"model_state": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "hub.pyth")
    net = build(NETWORKS["c2d"], "MODEL.WIDTH", "64", "MODEL.BLOCKS", "[3,4,6,3]")
    report = load_weights(net, tmp_path / "hub.pyth", strict=True)
    assert len(report.matched) == len(state)
    key = "res_blocks.0.branch2.conv_a.weight"
    assert torch.equal(net.state_dict()[f"blocks.2.{key}"], state[f"blocks.3.{key}"])


def test_all_resnet_50_names_are_known() -> None:
    """Against one plain name each, and none twice; the counts are those of the zoos' files."""
    for network, pathways, count in (("i3d", 1, 320), ("nln", 1, 385), ("slowfast", 2, 662)):
        nonlocals = ((), (1, 3), (1, 3, 5), ()) if network == "nln" else ((),) * 4
        layers = list(peer_names.layers((3, 4, 6, 3), pathways, nonlocals))
        for layout, name in ((PYSLOWFAST, peer_names.pyslowfast), (MMACTION2, peer_names.mmaction2(pathways))):
            if layout is MMACTION2 and network == "nln":
                continue
            keys = []
            for layer in layers:
                norm = layer[-1] == "norm"
                leaves = ["weight", *(["bias"] if norm or layer[0] in ("head", "nonlocal") else [])]
                leaves += ["running_mean", "running_var", "num_batches_tracked"] if norm else []
                keys += [f"{name(layer)}.{leaf}" for leaf in leaves]
            assert layout_of(keys) is layout
            plain = [layout.plain(key) for key in keys]
            assert len(keys) == count == len(set(plain)) and None not in plain
    assert CAFFE2.plain("t_res3_3_branch2c_bn_subsample_bn_riv") == "lateral3.norm.running_var"
    assert CAFFE2.plain("nonlocal_conv4_5_theta_b") == "pathway0.res4.5.nonlocal.theta.bias"
    assert CAFFE2.plain("model_iter") is None


def test_report_names_new_head_and_unexpected(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = renamed(randomise(build(NETWORKS["i3d"])).state_dict(), "i3d", "pyslowfast")
    torch.save({"model_state": {**state, "extra.weight": torch.zeros(1)}}, tmp_path / "x.pyth")
    net = build(NETWORKS["i3d"], "MODEL.NUM_CLASSES", "3")
    head = net.state_dict()["blocks.6.proj.weight"].clone()
    report = load_weights(net, tmp_path / "x.pyth")
    text = str(report)
    assert "by the names of PySlowFast" in text and "the head is new: the file has 5 classes, the network 3" in text
    assert report.unexpected == ["extra.weight"] and "1 left out: extra.weight" in text
    assert torch.equal(net.state_dict()["blocks.6.proj.weight"], head)
    with pytest.raises(UserError, match=r"x\.pyth: the weights are of another network.*2 replaced"):
        load_weights(net, tmp_path / "x.pyth", strict=True)


def test_other_network_is_refused(tmp_path: Path) -> None:
    state = renamed(build(NETWORKS["slow"]).state_dict(), "slow", "mmaction2")
    torch.save({"state_dict": state}, tmp_path / "slow.pth")
    with pytest.raises(UserError, match=r"slow\.pth.*backbone\.\S+ has the shape .*check MODEL"):
        load_weights(build(NETWORKS["i3d"]), tmp_path / "slow.pth")
    bare = renamed(build(NETWORKS["slowfast_bare"]).state_dict(), "slowfast_bare", "mmaction2")
    torch.save({"state_dict": bare}, tmp_path / "bare.pth")
    report = str(load_weights(build(NETWORKS["slowfast"]), tmp_path / "bare.pth"))
    assert "set MODEL.SLOWFAST.LATERAL_NORM False" in report and "SLOW_FRAMES every" in report
    with pytest.raises(UserError, match="LATERAL_NORM False"):
        load_weights(build(NETWORKS["slowfast"]), tmp_path / "bare.pth", strict=True)


@pytest.mark.parametrize("key", ["", "model", "state_dict", "model_state_dict", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "net.", "student.model."])
def test_wrapped_state_is_found(key: str, prefix: str) -> None:
    state = {"blocks.0.conv.weight": torch.ones(1), "blocks.1.proj.bias": torch.zeros(1)}
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    assert state_of({key: wrapped, "epoch": 3} if key else wrapped, "net.pt") == state


def test_part_that_is_compiled_is_found() -> None:
    state = {"conv1.weight": torch.ones(1), "layer1.0._orig_mod.conv1.weight": torch.ones(1)}
    assert [*state_of(state, "net.pt")] == ["conv1.weight", "layer1.0.conv1.weight"]
