"""RandomResizedCrop and centre crops: the boxes, and what the decoder makes of them."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from images import photo_folders
from limits import LIMIT
from PIL import Image
from thoroughness import examples

from data.augment.random_resized_crop import RandomResizedCrop, center_crop
from data.convert import main as convert
from data.errors import DataError, LoaderError
from data.inference_transform import inference_transform
from data.manifest import read_manifest
from data.reading.shard_reader import ShardReader
from data.reading.shard_tables import read_tables
from data.sources.torchvision_datasets import torchvision

sides = st.integers(1, 400)
size_lists = st.lists(st.tuples(sides, sides), min_size=1, max_size=20)


def random_boxes(sizes, min_scale=0.3, seed=4, epoch=0):
    return RandomResizedCrop(min_scale, seed).boxes(torch.tensor(sizes, dtype=torch.int64), epoch, 8).boxes


def inside(boxes, sizes):
    ends = boxes[:, :2] + boxes[:, 2:]
    return bool((boxes >= 0).all() and (boxes[:, 2:] > 0).all() and (ends <= torch.tensor(sizes)).all())


@examples(60)
@given(sizes=size_lists, min_scale=st.floats(0.01, 1), epoch=st.integers(0, 5))
def test_boxes_are_inside_their_images_with_the_required_area_and_aspect_ratio(sizes, min_scale, epoch):
    boxes = random_boxes(sizes, min_scale, epoch=epoch)
    assert inside(boxes, sizes)
    for (height, width), (_, _, crop_height, crop_width) in zip(sizes, boxes.tolist(), strict=True):
        # Rounding to pixels is off by at most half a pixel; where no attempt fits, the box is as large as possible.
        assert 3 / 4 * (crop_height - 0.5) <= crop_width + 0.5
        assert 3 / 4 * (crop_width - 0.5) <= crop_height + 0.5
        as_large_as_possible = crop_height == height or crop_width == width
        assert (crop_height + 0.5) * (crop_width + 0.5) >= min_scale * height * width or as_large_as_possible


@examples(30)
@given(sizes=size_lists, other=st.tuples(sides, sides), epoch=st.integers(0, 5))
def test_a_box_does_not_depend_on_other_images(sizes, other, epoch):
    boxes = random_boxes(sizes, 0.9, epoch=epoch)
    among_others = random_boxes([other, *sizes[1:], other], 0.9, epoch=epoch)
    assert torch.equal(among_others[1:-1], boxes[1:])


def test_top_and_left_of_a_crop_are_independent():
    """If both used one random number, they would be equal for squares, which have the same range for both."""
    top, left, height, width = random_boxes([(200, 200)] * 20_000, 0.2).unbind(1)
    squares = (height == width) & (height < 190)
    assert squares.sum() > 50
    assert (top == left)[squares].double().mean() < 0.3


def test_other_seeds_and_epochs_give_other_boxes():
    sizes = [(200, 300)] * 50
    boxes = random_boxes(sizes)
    assert not torch.equal(random_boxes(sizes, epoch=1), boxes)
    assert not torch.equal(random_boxes(sizes, seed=5), boxes)


def test_boxes_are_distributed_like_torchvisions():
    """Means and standard deviations of 4,000 boxes, to about four standard errors of the difference."""
    size, count = (200, 300), 4000
    ours = random_boxes([size] * count, 0.2).double()
    torch.manual_seed(0)
    image, torch_box = torch.empty(3, *size), torchvision.transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([torch_box(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    error = theirs.double().std(0) * (2 / count) ** 0.5
    assert ((ours.mean(0) - theirs.double().mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) - theirs.double().std(0)).abs() < 4 * error).all()


@examples(50)
@given(sizes=size_lists, ratio=st.floats(0.05, 1))
def test_center_crops_are_centred_squares(sizes, ratio):
    boxes = center_crop(torch.tensor(sizes, dtype=torch.int64), ratio, 8).boxes
    assert inside(boxes, sizes)
    for (height, width), (top, left, side, other) in zip(sizes, boxes.tolist(), strict=True):
        assert side == other == max(1, int(ratio * min(height, width)))
        assert abs(height - side - 2 * top) <= 1
        assert abs(width - side - 2 * left) <= 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_folders(tmp_path_factory.mktemp("photos"), train=3, val=2)


def converted(photos, out, *options):
    command = ["--source", "folder", "--root", str(photos), "--out", str(out), "--shards", "2"]
    assert convert([*command, *(() if "--longest-side" in options else ("--longest-side", "160")), *options]) == 0
    return out, read_manifest(out)


def decoded(out, manifest, split, boxes):
    reader = ShardReader(out, manifest, 5, workers=1, prefetch_batches=1, timeout=LIMIT)
    ids = torch.arange(manifest.samples(split))
    batches = reader.read(split, ids.split(5), boxes(reader.sizes[split]))
    return torch.cat([images.clone() for images, _, _ in batches])


def shrunk(path):
    """What the conversion stores of an image, before compression."""
    with Image.open(path) as image:
        scale = min(1, 160 / max(image.size))
        width, height = (round(scale * length) for length in image.size)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_the_decoder_crops_to_the_boxes_and_resizes(photos, tmp_path, mode):
    """Against OpenCV: raw pixels to one level, JPEG to its compression noise."""
    out, manifest = converted(photos, tmp_path / "out", "--mode", mode)
    crops = []

    def boxes(sizes):
        crops.append(RandomResizedCrop(0.3, 4).boxes(sizes, 2, 48))
        return crops[0]

    images = decoded(out, manifest, "train", boxes)
    files = sorted((photos / "train").glob("*/*"))
    assert images.shape == (len(files), 48, 48, 3)
    differences = []
    for path, image, (top, left, height, width) in zip(files, images, crops[0].boxes.tolist(), strict=True):
        crop = shrunk(path)[top : top + height, left : left + width]
        expected = cv2.resize(crop, (48, 48), interpolation=cv2.INTER_AREA)
        differences.append(np.abs(image.numpy().astype(int) - expected.astype(int)))
    assert np.mean(differences) < (0.1 if mode == "raw" else 3)


def test_the_inference_transform_gives_what_evaluation_reads(photos, tmp_path):
    out, manifest = converted(photos, tmp_path / "out")
    transform = inference_transform(out, manifest, rrc_min_scale=0.3, center_crop_ratio=0.8, resolution=40)
    images = decoded(out, manifest, "val", lambda sizes: center_crop(sizes, 0.8, 40))
    for path, image in zip(sorted((photos / "val").glob("*/*")), images, strict=True):
        with Image.open(path) as photo:
            assert np.array_equal(transform(photo.convert("RGB")), image.numpy())


def test_images_keep_their_size_unless_a_side_is_too_long(photos, tmp_path):
    out, manifest = converted(photos, tmp_path / "out")
    assert manifest.mixed
    reader = ShardReader(out, manifest, 5, workers=1, prefetch_batches=1, timeout=LIMIT)
    expected = [shrunk(path).shape[:2] for path in sorted((photos / "train").glob("*/*"))]
    assert reader.sizes["train"].tolist() == [list(size) for size in expected]
    assert max(max(size) for size in expected) == 160


def rejected(photos, out, *options):
    command = ["--source", "folder", "--root", str(photos), "--out", str(out), "--shards", "1"]
    return convert([*command, *options]) == 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_rejected(tmp_path, capsys, mode):
    photos = photo_folders(tmp_path / "photos", train=1, val=1)
    Image.fromarray(np.full((40, 40), 3000, np.int32 if mode == "I" else np.float32)).save(
        photos / "train" / "plain" / "deep.tiff"
    )
    assert rejected(photos, tmp_path / "out", "--longest-side", "100")
    assert f"deep.tiff: mode {mode} has 32 bits per channel, of unknown range" in capsys.readouterr().err


def test_a_longest_side_that_exceeds_a_page_is_rejected(photos, tmp_path, capsys):
    assert rejected(photos, tmp_path / "out", "--longest-side", "16385")
    assert "16385 is more than 16384 pixels" in capsys.readouterr().err


def test_a_large_longest_side_takes_little_space_if_no_image_is_large(photos, tmp_path):
    out, _ = converted(photos, tmp_path / "out", "--longest-side", "2000")
    assert sum(file.stat().st_size for file in out.iterdir()) < 200e6


def test_a_jpeg_that_cannot_be_decoded_is_an_error(photos, tmp_path):
    out, manifest = converted(photos, tmp_path / "out", "--mode", "jpg")
    shard = out / manifest.splits["val"][0].name
    content = bytearray(shard.read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start + 2 : start + 40] = bytes(38)
    shard.write_bytes(content)
    with pytest.raises(LoaderError, match=r"sample \d cannot be decoded"):
        decoded(out, manifest, "val", lambda sizes: center_crop(sizes, 0.8, 40))


def test_a_table_that_does_not_match_the_bytes_is_rejected(photos, tmp_path):
    """The decoder would copy as many bytes as the table says, beyond the image's end."""
    out, manifest = converted(photos, tmp_path / "out")
    shard = out / manifest.splits["val"][0].name
    rows = read_tables(shard).samples.tobytes()
    content = bytearray(shard.read_bytes())
    start = content.index(rows)
    row = np.frombuffer(content, read_tables(shard).samples.dtype, count=1, offset=start).copy()
    row["f0"]["height"] = 1
    content[start : start + row.nbytes] = row.tobytes()
    shard.write_bytes(content)
    with pytest.raises(DataError, match="an image's bytes does not match the file's table"):
        ShardReader(out, manifest, 5, workers=1, prefetch_batches=1, timeout=LIMIT)
