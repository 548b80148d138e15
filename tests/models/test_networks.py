"""The video networks: PyTorchVideo's at alpha 0 to the bit, the same state dict at every alpha."""

import copy
import pickle

import pytest
import torch
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from pytorchvideo.models import hub

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.blocks import TemporalPool, add_branch
from octvideo.models.nonlocal_block import NonLocal
from octvideo.models.slowfast import spread
from octvideo.octave import OctaveTensor, OctConv3d
from octvideo.octave.functional import upsample

HUB = {"c2d": hub.c2d_r50, "i3d": hub.i3d_r50, "slow": hub.slow_r50, "slowfast": hub.slowfast_r50}
FRAMES = {"slowfast": 32}


def build(arch="i3d", **keys):
    frames = keys.pop("frames", FRAMES.get(arch, 8))
    overrides = ["MODEL.ARCH", arch, "DATA.NUM_FRAMES", str(frames)]
    for key, value in keys.items():
        overrides += [key.replace("__", "."), str(value)]
    return build_model(load_cfg(None, overrides))


def small(arch="i3d", **keys):
    keys = {"MODEL__BLOCKS": "[1, 1, 1, 1]", "MODEL__WIDTH": 16, "MODEL__NUM_CLASSES": 5, **keys}
    return build(arch, **keys)


def randomise(state):
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if "running_var" in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2 + key.endswith("weight"))
    return state


R101 = {"MODEL__BLOCKS": "[3, 4, 23, 3]", "MODEL__SLOWFAST__FUSION_KERNEL": 5}


@pytest.mark.parametrize(
    ("arch", "builder", "keys"),
    [
        *((arch, builder, {}) for arch, builder in HUB.items()),
        pytest.param("slowfast", hub.slowfast_r101, R101, marks=pytest.mark.full),
    ],
    ids=[*HUB, "slowfast_r101"],
)
def test_alpha_0_is_bit_identical_to_pytorchvideo(arch, builder, keys):
    reference = builder().eval()
    state = randomise(reference.state_dict())
    ours = build(arch, **keys).eval()
    assert ours.load_state_dict(state)
    clip = torch.randn(1, 3, FRAMES.get(arch, 8), 224, 224)
    with torch.inference_mode():
        if arch == "slowfast":
            slow = clip.index_select(2, torch.linspace(0, 31, 8).long())
            expected = reference([slow, clip])
        else:
            expected = reference(clip)
        assert torch.equal(ours(clip), expected)
    for alpha in (0.1, 0.5, 1.0):
        twin = build(arch, OCTAVE__ALPHA=alpha, **keys)
        assert list(twin.state_dict()) == list(state)
        assert twin.load_state_dict(state)
        assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("arch", HUB)
@pytest.mark.parametrize("size", [(64, 64), (75, 97)])
def test_any_size_and_alpha_trains(arch, alpha, size):
    torch.manual_seed(0)
    net = small(arch, frames=8, OCTAVE__ALPHA=alpha, OCTAVE__STAGES="[2, 3, 4, 5]" if alpha == 0.25 else "[2, 3, 4]")
    frames = 8 if arch == "slowfast" else 6
    logits = net(torch.randn(2, 3, frames, *size))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    missing = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not missing, "a parameter without a gradient stops DistributedDataParallel"


@pytest.mark.parametrize("arch", HUB)
@pytest.mark.parametrize("size", [(64, 64), (73, 76), (75, 97), (116, 90)])
def test_multiple_may_leave_no_high_group(arch, size):
    """The 16 inner channels of stage 2 are all low then, and do not know whether their size was odd."""
    torch.manual_seed(0)
    net = small(arch, frames=8, OCTAVE__ALPHA=0.5, OCTAVE__MULTIPLE=16)
    assert any(layer.out_high == 0 for layer in net.modules() if isinstance(layer, OctConv3d))
    logits = net(torch.randn(2, 3, 8, *size))
    logits.sum().backward()
    assert logits.shape == (2, 5) and logits.isfinite().all()


def test_branch_without_high_group_gets_the_size_of_the_shortcut():
    low, shortcut = torch.randn(1, 2, 3, 4, 5), OctaveTensor(torch.randn(1, 6, 3, 7, 9), torch.randn(1, 2, 3, 4, 5))
    conv = OctConv3d(2, 8, 1, alpha_in=1, alpha_out=0.25)
    branch = conv(OctaveTensor(None, low))
    assert branch.high.shape[-2:] == (8, 10), "it cannot know better"
    found = add_branch(shortcut, branch)
    expected = shortcut.high + upsample(branch.high[..., ::2, ::2], (7, 9))
    assert torch.equal(found.high, expected) and torch.equal(found.low, shortcut.low + branch.low)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
@pytest.mark.parametrize("arch", HUB)
def test_conv_as_2d_gives_equal_logits(arch, alpha):
    native = small(arch, frames=8, OCTAVE__ALPHA=alpha).eval()
    as_2d = small(arch, frames=8, OCTAVE__ALPHA=alpha, MODEL__CONV_AS_2D=True).eval()
    as_2d.load_state_dict(randomise(native.state_dict()))
    native.load_state_dict(as_2d.state_dict())
    clip = torch.randn(1, 8, 64, 80, 3).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(as_2d(clip), native(clip), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_last_norms_start_at_zero(alpha):
    def zeros(net):
        state = net.state_dict()
        return sum(1 for key, value in state.items() if key.endswith("norm_c.weight") and not value.any())

    assert zeros(build("i3d", OCTAVE__ALPHA=alpha)) == zeros(hub.i3d_r50()) == 16
    nonlocal_net = build("i3d", OCTAVE__ALPHA=alpha, MODEL__NONLOCAL="[[], [1, 3], [1, 3, 5], []]")
    outputs = [v for k, v in nonlocal_net.state_dict().items() if "res_blocks" in k and k.endswith(".norm.weight")]
    assert len(outputs) == 5 and not any(value.any() for value in outputs)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_nonlocal_keys_are_equal_at_every_alpha(alpha):
    where = {"MODEL__NONLOCAL": "[[], [0], [0], []]"}
    vanilla = small(**where)
    twin = small(OCTAVE__ALPHA=alpha, **where)
    shapes = {key: value.shape for key, value in vanilla.state_dict().items()}
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes
    assert "blocks.3.res_blocks.1.conv_theta.weight" in shapes
    assert twin(torch.randn(1, 3, 8, 90, 70)).shape == (1, 5)


def test_nonlocal_at_alpha_0_matches_pytorchvideo():
    theirs = create_nonlocal(dim_in=8, dim_inner=4, pool_size=(1, 2, 2), instantiation="softmax").eval()
    ours = NonLocal(8, 4).eval()
    ours.load_state_dict(randomise(theirs.state_dict()))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 3, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_layout_options_change_the_modules():
    clip = torch.randn(1, 3, 4, 64, 64)
    padded, unpadded = small(), small(MODEL__STEM_POOL_PADDED=False)
    assert padded.blocks[0](clip).shape[-1] == 16 and unpadded.blocks[0](clip).shape[-1] == 15
    vanilla_res5 = small(OCTAVE__ALPHA=0.5)
    octave_res5 = small(OCTAVE__ALPHA=0.5, OCTAVE__STAGES="[2, 3, 4, 5]")
    captured = {}
    for name, net in ("vanilla", vanilla_res5), ("octave", octave_res5):
        net.blocks[-2].register_forward_hook(lambda _m, _i, out, name=name: captured.__setitem__(name, out))
        net(clip)
    assert isinstance(captured["octave"], OctaveTensor) and isinstance(captured["vanilla"], torch.Tensor)


@pytest.mark.parametrize("shape", [(1, 2, 1, 3, 3), (1, 3, 5, 4, 3), (2, 3, 4, 3, 2)])
def test_temporal_pool_equals_max_pooling(shape):
    x = torch.randn(shape).relu()  # with frames that are equal
    expected_x, x = x.clone().requires_grad_(), x.requires_grad_()
    expected = expected_x if shape[2] == 1 else torch.nn.MaxPool3d((2, 1, 1))(expected_x)
    pool = TemporalPool()
    with torch.no_grad():
        assert torch.equal(pool(x), expected)
    weight = torch.randn_like(expected)
    for value in expected, pool(x):
        (value * weight).sum().backward()
    assert torch.equal(pool(x), expected) and torch.equal(x.grad, expected_x.grad)


def test_networks_copy_pickle_export_and_compile():
    net = small("i3d", OCTAVE__ALPHA=0.25, MODEL__NONLOCAL="[[], [0], [], []]").eval()
    clip = torch.randn(1, 3, 4, 64, 64)
    expected = net(clip)
    assert torch.equal(copy.deepcopy(net)(clip), expected)
    program = torch.export.export(net, (clip,))
    torch.testing.assert_close(program.module()(clip), expected, atol=1e-5, rtol=1e-4)
    traced = torch.compile(net, fullgraph=True, backend="aot_eager")  # the operator's own test compiles for real
    torch.testing.assert_close(traced(clip), expected, atol=1e-4, rtol=1e-3)
    stage = pickle.loads(pickle.dumps(net.blocks[1]))
    assert list(stage.state_dict()) == list(net.blocks[1].state_dict())


def test_forward_does_not_change_the_clip():
    net, clip = small("slowfast", frames=8), torch.randn(1, 3, 8, 64, 64)
    before = clip.clone()
    net(clip)
    assert torch.equal(clip, before)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_slow_frames_match_pytorchvideo(ratio):
    for count in range(1, 128 // ratio + 1):
        frames = ratio * count
        assert spread(frames, count) == torch.linspace(0, frames - 1, count).long().tolist()


def test_slowfast_refuses_indivisible_frames():
    with pytest.raises(ValueError, match="divisible by 4"):
        small("slowfast", frames=8)(torch.randn(1, 3, 6, 64, 64))
    with pytest.raises(UserError, match="DATA.NUM_FRAMES is 6"):
        small("slowfast", frames=6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(MODEL__TEMPORAL_KERNELS="[[1], [2], [1], [1]]"), "odd numbers"),
        (dict(MODEL__STEM_KERNEL="[3, 3]"), "three odd numbers"),
        (dict(arch="slowfast", MODEL__NONLOCAL="[[0], [], [], []]"), "slowfast does not use it"),
        (dict(arch="slowfast", MODEL__WIDTH=12), "divisible by MODEL.SLOWFAST.CHANNEL_RATIO"),
        (dict(frames=1), "TEMPORAL_POOL"),
    ],
)
def test_conflicting_keys_are_named(keys, message):
    with pytest.raises(UserError, match=message):
        small(**keys)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("size", [16, 32, 33])
def test_smallest_clips_run(alpha: float, size: int) -> None:
    keys = [
        "MODEL.WIDTH",
        "8",
        "MODEL.BLOCKS",
        "[1,1,1,1]",
        "MODEL.NONLOCAL",
        "[[],[0],[0],[]]",
        "OCTAVE.ALPHA",
        str(alpha),
    ]
    model = build_model(load_cfg("kinetics400/i3d_k400.yaml", keys)).eval()
    assert model(torch.randn(2, 3, 1, size, size)).shape == (2, 400)


def test_stem_strides_over_time():
    """mmaction2's I3D halves the frames in the stem and again in the first pool: together every fourth."""
    strided, plain = (small(frames=32, MODEL__STEM_TEMPORAL_STRIDE=stride).eval() for stride in (4, 1))
    plain.load_state_dict(strided.state_dict())
    clips = torch.randn(1, 3, 32, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(strided.blocks[0](clips), plain.blocks[0](clips)[:, :, ::4], atol=1e-6)
        assert strided(clips).shape == (1, 5)
    with pytest.raises(UserError, match="STEM_TEMPORAL_STRIDE"):
        small("slowfast", MODEL__STEM_TEMPORAL_STRIDE=4)


def test_slow_pathway_selects_its_frames():
    seen = []
    for frames in ("spread", "every"):
        net = small("slowfast", MODEL__SLOWFAST__FRAME_RATIO=8, MODEL__SLOWFAST__SLOW_FRAMES=frames).eval()
        net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0][0, 0, :, 0, 0].tolist()))
        with torch.inference_mode():
            net(torch.arange(32.0).view(1, 1, 32, 1, 1).expand(1, 3, 32, 64, 64))
    assert seen == [[0, 10, 20, 31], [0, 8, 16, 24]]
