"""Images are videos of one frame: read upright and as RGB whatever is in the file, indexed, packed, replaced, named."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from octvideo.config import load_cfg
from octvideo.data import DecodeError, build_test_loader, build_train_loader, open_video, read_index
from octvideo.errors import UserError


@pytest.fixture(scope="module")
def frame(data: Path) -> np.ndarray:
    """A frame of a real clip, ``(256, 455, 3)`` uint8."""
    with open_video(str(data / "clips" / "actions" / "mmaction2_part_0.mp4")) as video:
        return video.frames([20])[0]


def read(path: Path, **options) -> np.ndarray:
    with open_video(str(path), **options) as video:
        assert len(video) == 1
        return video.frames([0])[0]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG", ".jpg", ".JPEG", ".webp"])
def test_every_suffix_is_read(tmp_path, frame, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(frame).save(path)
    got, error = read(path), 0 if suffix.lower() in (".png", ".bmp", ".tif") else 4
    assert got.shape == frame.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - frame).mean() <= error
    with open_video(path.read_bytes(), name=f"000001.tar!{path.name}") as video:
        assert np.array_equal(video.frames([0, 0]), np.stack([got, got]))


def test_what_is_inside_decides(tmp_path, frame):
    Image.fromarray(frame).save(tmp_path / "a.png")
    (tmp_path / "n02105855_2933.JPEG").write_bytes((tmp_path / "a.png").read_bytes())  # as in ImageNet
    assert np.array_equal(read(tmp_path / "n02105855_2933.JPEG"), frame)


def test_every_kind_of_pixel_becomes_rgb(tmp_path, frame):
    image = Image.fromarray(frame)
    grey = np.asarray(image.convert("L"))
    expected = {
        "L": np.stack([grey] * 3, 2),
        "LA": np.stack([grey] * 3, 2),
        "RGBA": frame,
        "P": np.asarray(image.convert("P").convert("RGB")),
        "1": np.stack([np.asarray(image.convert("1")).astype(np.uint8) * 255] * 3, 2),
    }
    for mode, pixels in expected.items():
        image.convert(mode).save(tmp_path / f"{mode}.png")
        assert np.array_equal(read(tmp_path / f"{mode}.png"), pixels), mode
    for suffix in (".png", ".tif"):  # 16 bits a pixel
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"16{suffix}")
        assert np.array_equal(read(tmp_path / f"16{suffix}"), expected["L"])
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read(tmp_path / "cmyk.jpg").astype(int) - frame).mean() < 5


def test_it_is_turned_upright(tmp_path, frame):
    upright = Image.fromarray(frame)
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        (upright if stored is None else upright.transpose(stored)).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(read(tmp_path / "turned.png"), frame), orientation
    plain = io.BytesIO()
    upright.save(plain, "JPEG")
    damaged = b"\xff\xe1\x00\x12Exif\x00\x00" + b"MM\x00\x2a\xff\xff\xff\xff\x12\x34"  # an offset beyond its end
    (tmp_path / "damaged.jpg").write_bytes(plain.getvalue()[:2] + damaged + plain.getvalue()[2:])
    assert read(tmp_path / "damaged.jpg").shape == frame.shape


def test_the_short_side(tmp_path, frame):
    Image.fromarray(frame).save(tmp_path / "a.png")
    small = read(tmp_path / "a.png", short_side=96)
    assert small.shape == (96, 171, 3)
    expected = np.asarray(ImageOps.fit(Image.fromarray(frame), (171, 96), Image.Resampling.BILINEAR))
    assert np.abs(small.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animation_has_all_its_frames(tmp_path, suffix):
    colours = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [200, 200, 20], [20, 20, 20]], np.uint8)
    first, *others = (Image.new("RGB", (48, 32), tuple(map(int, colour))) for colour in colours)
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=others, duration=40)
    for source in (str(path), path.read_bytes()):
        with open_video(source, name=path.name) as video:
            assert (len(video), video.fps) == (5, 25)
            found = video.frames([4, 0, 2, 0])
        assert np.abs(found[:, 10, 10].astype(int) - colours[[4, 0, 2, 0]]).max() < 6


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0", b"%!PS-Adobe-3.0 EPSF-3.0\n", "half"])
def test_broken_images_are_named(tmp_path, frame, content):
    path = tmp_path / "broken.jpg"
    if content == "half":
        Image.fromarray(frame).save(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"broken\.jpg: .+"):
        read(path)


@pytest.fixture
def image_folder(tmp_path: Path, frame: np.ndarray) -> Path:
    """ImageNet's layout: two classes of three JPEG files, of which one is cut short."""
    for label, name in enumerate(("n01440764", "n01443537")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            crop = frame[10 * number :, 40 * label :]
            Image.fromarray(crop).save(tmp_path / "images" / name / f"{name}_{number}.JPEG")
    with (tmp_path / "images" / "n01443537" / "n01443537_2.JPEG").open("r+b") as file:
        file.truncate(3000)
    return tmp_path / "images"


def cfg_of(source: Path, *overrides: str):
    sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 40"
    rest = "DATA.NUM_FRAMES 1 DATA.RANDOM_RESIZED_CROP [0.08,1.0,0.75,1.3333] TRAIN.BATCH_SIZE 6"
    rest += " TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1"
    paths = ["DATA.TRAIN", str(source), "DATA.VAL", str(source), "MODEL.NUM_CLASSES", "2", "NUM_WORKERS", "0"]
    return load_cfg(None, [*f"{sizes} {rest}".split(), *paths, *overrides])


def test_folders_and_lists_of_images(image_folder, tmp_path):
    index = read_index(image_folder)
    assert index.classes == ["n01440764", "n01443537"] and index.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.path(3) == str(image_folder / "n01443537" / "n01443537_0.JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\nwith blank.jpg 970\n")
    listed = read_index(tmp_path / "val.txt")
    assert [listed.path(n) for n in range(2)] == [
        str(tmp_path / "ILSVRC2012_val_00000001.JPEG"),
        str(tmp_path / "with blank.jpg"),
    ]
    assert listed.labels.tolist() == [65, 970]
    # Beside videos images are thumbnails.
    (image_folder / "n01440764" / "a.mp4").touch()
    assert [Path(read_index(image_folder).path(0)).name] == ["a.mp4"] and len(read_index(image_folder)) == 1


def test_broken_image_is_replaced_or_named(image_folder):
    batch = next(iter(build_train_loader(cfg_of(image_folder))))  # a pass, every image once
    assert batch.frames.shape == (6, 1, 32, 32, 3) and 5 not in batch.indices
    assert {Path(failure.path).name for failure in batch.failed} == {"n01443537_2.JPEG"}  # perhaps drawn again
    items = list(build_test_loader(cfg_of(image_folder)))
    assert [item.index for item in items] == list(range(6))
    assert [item.failed is None for item in items] == [True] * 5 + [False]
    assert items[0].frames.shape == (1, 1, 32, 32, 3)
    assert "truncated" in items[5].failed.reason


def test_image_is_a_still_video(image_folder):
    item = next(iter(build_test_loader(cfg_of(image_folder, "DATA.NUM_FRAMES", "4", "TEST.NUM_CLIPS", "2"))))
    assert item.frames.shape == (2, 4, 32, 32, 3) and torch.equal(item.frames[0, 0], item.frames[1, 3])


def test_shards_of_images_give_the_same_pictures(image_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from data_tools.shards.make_shards import main

    arguments = ["--list", str(image_folder), "--output", str(tmp_path / "shards"), "--max-size", "1MB"]
    assert main(arguments) == 0, sys.stderr
    packed = read_index(tmp_path / "shards")
    assert packed.classes == ["n01440764", "n01443537"] and packed.path(5).endswith(".jpeg")
    for a, b in zip(build_test_loader(cfg_of(image_folder)), build_test_loader(cfg_of(tmp_path / "shards"))):
        assert (a.label, a.index, a.failed is None) == (b.label, b.index, b.failed is None)
        assert a.frames is None or torch.equal(a.frames, b.frames)


def test_a_folder_without_either_is_named(tmp_path):
    (tmp_path / "v" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no videos or images in class folders"):
        read_index(tmp_path / "v")
