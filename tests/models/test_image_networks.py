"""The image networks: torchvision's and timm's at alpha 0, the same keys and shapes at every alpha, and they train."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from octvideo.architectures import IMAGE_NETWORKS
from octvideo.config import config_folder, load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.models.image.densenet import create_densenet
from octvideo.models.image.glore import GloRe
from octvideo.models.image.mobilenet import create_mobilenet_v1, create_mobilenet_v2
from octvideo.models.image.networks import create_image_network
from octvideo.models.image.resnet import create_image_resnet
from octvideo.models.insertion import Octave
from octvideo.octave import AblatedOctConv2d, Ablation, OctaveTensor
from octvideo.octave.complexity import count

ONE_BLOCK = dict(blocks=(1, 1, 1, 1), width=16, classes=5)
DEEP_STEM = ((8, 3, 1), (8, 3, 2), (16, 3, 1))
SMALL = {
    "post-activation": lambda octave: create_image_resnet(octave, **ONE_BLOCK),
    "pre-activation": lambda octave: create_image_resnet(
        octave, **{**ONE_BLOCK, "blocks": (2, 2, 1, 1)}, preactivation=True, se=True
    ),
    "groups": lambda octave: create_image_resnet(octave, **ONE_BLOCK, widen=2, groups=8, preactivation=True),
    "v1f": lambda octave: create_image_resnet(
        octave, **ONE_BLOCK, stride_on=3, se=True, input_norm=True, stem=DEEP_STEM, stem_down="block"
    ),
    "bL stem": lambda octave: create_image_resnet(octave, **ONE_BLOCK, stem_down="conv"),
    "GloRe": lambda octave: create_image_resnet(octave, **{**ONE_BLOCK, "blocks": (1, 1, 3, 1)}, glore_after=(0, 2)),
    "densenet": lambda octave: create_densenet(octave, blocks=(2, 2, 2, 2), width=16, growth=8, classes=5),
    "mobilenet v1": lambda octave: create_mobilenet_v1(octave, multiplier=0.25, classes=5),
    "mobilenet v2": lambda octave: create_mobilenet_v2(octave, multiplier=0.25, expand_first=True, classes=5),
}


def randomise(network):
    """Norms that do something, with the statistics of a batch, so that the logits depend on the image."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (75, 97)])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", SMALL)
def test_every_part_trains(name, alpha, size):
    torch.manual_seed(0)
    octave = Octave(alpha, stages=(2, 3, 4, 5) if alpha == 0.25 else (2, 3, 4))
    if name == "groups" and alpha == 0.1:
        with pytest.raises(ValueError, match="groups=8 must divide"):
            SMALL[name](octave)
        return
    network = SMALL[name](octave)
    logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.sum().backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing, "a parameter without a gradient stops DistributedDataParallel"


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_keys_are_equal_at_every_alpha(name):
    def shapes(alpha):
        with torch.device("meta"):
            return {key: value.shape for key, value in create_image_network(name, Octave(alpha)).state_dict().items()}

    assert shapes(0.0) == shapes(0.25) == shapes(0.5)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet50", torchvision.models.resnet50),
        ("resnext50_32x4d", torchvision.models.resnext50_32x4d),
        ("densenet121", torchvision.models.densenet121),
        ("mobilenet_v2", torchvision.models.mobilenet_v2),
        ("se_resnet50", lambda: timm.create_model("seresnet50")),
    ],
)
def test_alpha_0_matches_torchvision_and_timm(name, theirs):
    torch.manual_seed(0)
    reference = randomise(theirs())
    ours = create_image_network(name, Octave()).eval()
    assert ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = reference(images)
        assert (expected[0] - expected[1]).abs().max() > 0.1, "the images make no difference"
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
        octave = create_image_network(name, Octave(0.25)).eval()
        octave.load_state_dict(reference.state_dict())
        assert (octave(images) - expected).abs().max() > 1e-3


def test_pre_activation_matches_timm():
    """timm's has no norm and no ReLU in the stem, and one norm for a block's projection and its first convolution."""
    torch.manual_seed(0)
    reference = randomise(timm.create_model("resnetv2_50"))
    ours = create_image_network("resnet50_preact", Octave()).eval()
    renamed = {}
    for key, value in reference.state_dict().items():
        key = key.replace("stem.conv", "conv1").replace("head.", "").replace("downsample.conv", "downsample.2")
        for number in range(4):
            key = key.replace(f"stages.{number}.blocks", f"layer{number + 1}")
        key = key.replace(".norm", ".bn")
        value = value.flatten(1) if key == "fc.weight" else value  # a 1x1 convolution there
        renamed[key] = value
        projection = key.replace("0.bn1", "0.downsample.0")
        if projection != key:
            renamed[projection] = value
    renamed |= {key: value for key, value in ours.state_dict().items() if key.startswith("bn1.")}
    assert ours.load_state_dict(renamed)
    ours.bn1, ours.relu = torch.nn.Identity(), torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = reference(images)
        assert (expected[0] - expected[1]).abs().max() > 0.01, "the images make no difference"
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)


def test_densenet_concatenates_each_group():
    network = create_densenet(Octave(0.25), blocks=(2, 2, 2, 2), width=16, growth=8, classes=5)
    shapes = []
    for block in (network.features.denseblock1, network.features.denseblock2, network.features.denseblock4):
        block.register_forward_hook(
            lambda _module, _inputs, out: shapes.append(
                [tuple(group.shape) for group in (out if isinstance(out, OctaveTensor) else (out,))]
            )
        )
    network.eval()(torch.randn(1, 3, 64, 64))
    # 16 of the stem, then 6 + 2 twice; the transition gives 12 + 4; the last one merges.
    assert shapes[:2] == [[(1, 28, 16, 16), (1, 4, 8, 8)], [(1, 24, 8, 8), (1, 8, 4, 4)]]
    assert len(shapes[2]) == 1


def test_glore_matches_its_equation():
    torch.manual_seed(0)
    unit = GloRe(8, 4, 6).eval()
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(unit(x), x), "it starts as the identity"
    unit.norm.weight.data.uniform_(0.5, 1)
    states, assignment = unit.conv_state(x), unit.conv_project(x)
    nodes = torch.einsum("bshw,bnhw->bsn", states, assignment) / 30
    mixed = torch.einsum("mn,bsn->bsm", unit.mix_nodes.weight[..., 0], nodes) + unit.mix_nodes.bias
    found = torch.einsum("ts,bsn->btn", unit.mix_states.weight[..., 0], F.relu(nodes + mixed))
    back = unit.norm(unit.conv_out(torch.einsum("btn,bnhw->bthw", found, assignment)))
    torch.testing.assert_close(unit(x), x + back)


def test_mg_conv_convolves_both_maps():
    """Multi-grid convolution: max pooling down, nearest neighbours up, and only then one convolution for each map."""
    torch.manual_seed(0)
    arguments = dict(padding=1, bias=True, alpha_in=0.25, alpha_out=0.5)
    mg_conv = Ablation(down="max", upsample_first=True)
    conv = AblatedOctConv2d(8, 6, 3, **arguments, ablation=mg_conv)
    high, low = torch.randn(2, 6, 9, 8), torch.randn(2, 2, 5, 4)
    y = conv(OctaveTensor(high, low))
    up = low.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :9, :8]
    down = F.max_pool2d(high, 2, ceil_mode=True)
    torch.testing.assert_close(y.high, F.conv2d(torch.cat([high, up], 1), conv.weight[:3], conv.bias[:3], padding=1))
    torch.testing.assert_close(y.low, F.conv2d(torch.cat([down, low], 1), conv.weight[3:], conv.bias[3:], padding=1))

    def cost(octave):
        with torch.device("meta"):
            return count(create_image_resnet(octave, preactivation=True), (1, 3, 224, 224)).multiply_adds

    assert 1.2 * cost(Octave(0.5)) < cost(Octave(0.5, ablation=mg_conv)) < cost(Octave())


def test_pool_vanilla_pools_before_strided_layers():
    conv = AblatedOctConv2d(4, 4, 3, 2, 1, bias=False, alpha_in=0, alpha_out=0, ablation=Ablation())
    x = torch.randn(1, 4, 7, 6)
    pooled = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(conv(x), F.conv2d(pooled, conv.weight, padding=1))

    small = ["MODEL.BLOCKS", "[1, 1, 1, 1]", "MODEL.WIDTH", "16", "OCTAVE.POOL_VANILLA"]
    strided, pooled = (build_model(load_cfg(None, [*small, value])) for value in ("False", "True"))
    clip = torch.randn(1, 3, 8, 64, 64)
    pooled.load_state_dict(strided.state_dict())
    assert torch.equal(pooled.blocks[0](clip), strided.blocks[0](clip)), "the stem is as it was"
    features = torch.randn(1, 64, 4, 16, 16)
    assert not torch.allclose(pooled.blocks[3](features), strided.blocks[3](features))


def test_unknown_stem_down_is_named():
    with pytest.raises(ValueError, match="stem_down is 'max'"):
        create_image_resnet(Octave(), stem_down="max")


def build(arch, *overrides):
    keys = ["MODEL.ARCH", arch, "DATA.NUM_FRAMES", "1", "MODEL.NUM_CLASSES", "7", *overrides]
    return build_model(load_cfg(None, keys))


@pytest.mark.parametrize("arch", ["mobilenet_v1_075", "resnet50"])
def test_image_network_takes_one_frame_clips(arch):
    network = build(arch, "OCTAVE.ALPHA", "0.25").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(images[:, :, None]), network(images))
    plain = create_image_network(arch, Octave(0.25), classes=7)
    assert list(network.state_dict()) == list(plain.state_dict())


def test_channels_last_sets_the_memory_format():
    small = ["MODEL.BLOCKS", "[1, 1, 1, 1]", "MODEL.WIDTH", "8", "MODEL.CONV_AS_2D", "True"]
    image, video = channels_last(build("resnet50", *small)), channels_last(build_model(load_cfg(None, small)))
    assert image.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert video.blocks[1].res_blocks[0].branch2.conv_b.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_resnet_takes_blocks_and_width():
    network = build("resnet50_preact", "MODEL.BLOCKS", "[1, 2, 1, 1]", "MODEL.WIDTH", "8", "OCTAVE.ALPHA", "0.25")
    plain = create_image_resnet(Octave(0.25), blocks=(1, 2, 1, 1), width=8, preactivation=True, classes=7)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (network, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATA.NUM_FRAMES", "8"], "DATA.NUM_FRAMES is 8"),
        (["MODEL.BLOCKS", "[1, 1, 1, 1]"], "MODEL.BLOCKS is set, but densenet121 does not use it"),
        (["MODEL.NONLOCAL", "[[], [0], [], []]"], "MODEL.NONLOCAL is set"),
    ],
)
def test_video_keys_are_refused_for_images(overrides, message):
    with pytest.raises(UserError, match=message):
        build("densenet121", *overrides)


TWINS = sorted((config_folder() / "imagenet").glob("oct_*_in1k.yaml"))


@pytest.mark.parametrize("file", TWINS, ids=[file.stem for file in TWINS])
def test_imagenet_twins_differ_in_alpha_only(file):
    vanilla, octave = load_cfg(file.with_name(file.name[4:])), load_cfg(file)
    with torch.device("meta"):
        assert build_model(octave)(torch.randn(1, 3, 1, 224, 224)).shape == (1, 1000)
    vanilla.defrost()
    vanilla.OCTAVE.ALPHA = octave.OCTAVE.ALPHA
    assert vanilla == octave


def test_indivisible_groups_are_named():
    with pytest.raises(
        UserError, match="resnext50_32x4d cannot be made with OCTAVE.ALPHA 0.01, .*choose another alpha"
    ):
        build("resnext50_32x4d", "OCTAVE.ALPHA", "0.01")
