import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images import picture_tree
from PIL import Image

from data.convert import main as convert
from data.cut import Cut
from data.picture import preparation
from data.reader import ShardReader
from data.shards import read_manifest
from data.vision import torchvision

sides = st.integers(1, 400)
size_lists = st.lists(st.tuples(sides, sides), min_size=1, max_size=20)


def cut_of(sizes, smallest=0.3, middle=0.875, seed=4):
    table = torch.tensor(sizes, dtype=torch.int64)
    return Cut({"train": table, "val": table}, smallest, middle, seed)


def inside(boxes, sizes):
    ends = boxes[:, :2] + boxes[:, 2:]
    return bool((boxes >= 0).all() and (boxes[:, 2:] > 0).all() and (ends <= torch.tensor(sizes)).all())


@settings(max_examples=60, deadline=None)
@given(sizes=size_lists, smallest=st.floats(0.01, 1), epoch=st.integers(0, 5))
def test_boxes_lie_inside_their_images_and_are_no_smaller_and_no_other_shape_than_asked_for(sizes, smallest, epoch):
    boxes = cut_of(sizes, smallest).training(epoch, 8).places
    assert inside(boxes, sizes)
    for (height, width), (_, _, cut_height, cut_width) in zip(sizes, boxes.tolist(), strict=True):
        # Whole pixels are half a pixel off at most; what fits into no image of that shape is as large as can be.
        assert 3 / 4 * (cut_height - 0.5) <= cut_width + 0.5
        assert 3 / 4 * (cut_width - 0.5) <= cut_height + 0.5
        as_large_as_can_be = cut_height == height or cut_width == width
        assert (cut_height + 0.5) * (cut_width + 0.5) >= smallest * height * width or as_large_as_can_be


@settings(max_examples=30, deadline=None)
@given(sizes=size_lists, other=st.tuples(sides, sides), epoch=st.integers(0, 5))
def test_a_box_depends_on_its_own_image_seed_and_epoch_alone(sizes, other, epoch):
    boxes = cut_of(sizes, smallest=0.9).training(epoch, 8).places
    among_others = cut_of([other, *sizes[1:], other], smallest=0.9).training(epoch, 8).places
    assert torch.equal(among_others[1:-1], boxes[1:])


def test_other_seeds_and_epochs_cut_elsewhere():
    sizes = [(200, 300)] * 50
    boxes = cut_of(sizes).training(0, 8).places
    assert not torch.equal(cut_of(sizes).training(1, 8).places, boxes)
    assert not torch.equal(cut_of(sizes, seed=5).training(0, 8).places, boxes)


def test_boxes_are_spread_as_torchvisions_are():
    """Means and deviations of 4,000 boxes, to four standard errors of the difference or so."""
    size, count = (200, 300), 4000
    ours = cut_of([size] * count, smallest=0.2).training(0, 8).places.double()
    torch.manual_seed(0)
    image, torch_box = torch.empty(3, *size), torchvision.transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([torch_box(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    error = theirs.double().std(0) * (2 / count) ** 0.5
    assert ((ours.mean(0) - theirs.double().mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) - theirs.double().std(0)).abs() < 4 * error).all()


@settings(max_examples=50, deadline=None)
@given(sizes=size_lists, middle=st.floats(0.05, 1))
def test_the_middle_is_a_square_in_the_middle(sizes, middle):
    boxes = cut_of(sizes, middle=middle).evaluation(8).places
    assert inside(boxes, sizes)
    for (height, width), (top, left, side, other) in zip(sizes, boxes.tolist(), strict=True):
        assert side == other == max(1, int(middle * min(height, width)))
        assert abs(height - side - 2 * top) <= 1
        assert abs(width - side - 2 * left) <= 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return picture_tree(tmp_path_factory.mktemp("pictures"), train=3, val=2)


def converted(pictures, out, *options):
    command = ["--source", "folder", "--root", str(pictures), "--out", str(out), "--shards", "2"]
    assert convert([*command, "--longest-side", "160", *options]) == 0
    return out, read_manifest(out)


def decoded(out, manifest, split, boxes):
    reader = ShardReader(out, manifest, 5, workers=1, batches_ahead=1, timeout=60)
    ids = torch.arange(manifest.samples(split))
    return torch.cat([images.clone() for images, _, _ in reader.read(split, ids.split(5), boxes(reader.sizes))])


def shrunk(path):
    """What the conversion keeps of a picture."""
    with Image.open(path) as image:
        scale = min(1, 160 / max(image.size))
        width, height = (round(scale * length) for length in image.size)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_what_the_boxes_say_is_cut_out_and_resized(pictures, tmp_path, mode):
    """Against OpenCV: raw pixels to one step, JPEG to what compression does to noise."""
    out, manifest = converted(pictures, tmp_path / "out", "--mode", mode)
    places = []

    def boxes(sizes):
        places.append(Cut(sizes, 0.3, 0.875, 4).training(2, 48))
        return places[0]

    images = decoded(out, manifest, "train", boxes)
    files = sorted((pictures / "train").glob("*/*"))
    assert images.shape == (len(files), 48, 48, 3)
    differences = []
    for path, image, (top, left, height, width) in zip(files, images, places[0].places.tolist(), strict=True):
        part = shrunk(path)[top : top + height, left : left + width]
        expected = cv2.resize(part, (48, 48), interpolation=cv2.INTER_AREA)
        differences.append(np.abs(image.numpy().astype(int) - expected.astype(int)))
    assert np.mean(differences) < (0.1 if mode == "raw" else 3)


def test_a_picture_is_prepared_as_an_evaluation_has_it(pictures, tmp_path):
    out, manifest = converted(pictures, tmp_path / "out")
    prepared = preparation(manifest, smallest_cut=0.3, middle=0.8, side=40)
    images = decoded(out, manifest, "val", lambda sizes: Cut(sizes, 0.3, 0.8, 0).evaluation(40))
    for path, image in zip(sorted((pictures / "val").glob("*/*")), images, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(prepared(picture.convert("RGB")), image.numpy())


def test_sizes_are_kept_unless_a_side_is_too_long(pictures, tmp_path):
    out, manifest = converted(pictures, tmp_path / "out")
    assert manifest.mixed
    reader = ShardReader(out, manifest, 5, workers=1, batches_ahead=1, timeout=60)
    expected = [shrunk(path).shape[:2] for path in sorted((pictures / "train").glob("*/*"))]
    assert reader.sizes["train"].tolist() == [list(size) for size in expected]
    assert max(max(size) for size in expected) == 160
