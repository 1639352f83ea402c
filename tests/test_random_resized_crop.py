import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images import photo_folders
from PIL import Image

from data.augment.random_resized_crop import RandomResizedCrop
from data.convert import main as convert
from data.errors import DataError, LoaderError
from data.inference_transform import preparation
from data.manifest import read_manifest
from data.reading.ffcv_imports import Reader
from data.reading.shard_reader import ShardReader
from data.sources.torchvision_datasets import torchvision

sides = st.integers(1, 400)
size_lists = st.lists(st.tuples(sides, sides), min_size=1, max_size=20)


def cut_of(sizes, smallest=0.3, middle=0.875, seed=4):
    table = torch.tensor(sizes, dtype=torch.int64)
    return RandomResizedCrop({"train": table, "val": table}, smallest, middle, seed)


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


def test_the_two_places_of_a_box_are_drawn_each_by_itself():
    """One draw for both would give squares, which have as much room on both sides, one number twice."""
    top, left, height, width = cut_of([(200, 200)] * 20_000, smallest=0.2).training(0, 8).places.unbind(1)
    squares = (height == width) & (height < 190)
    assert squares.sum() > 50
    assert (top == left)[squares].double().mean() < 0.3


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
    return photo_folders(tmp_path_factory.mktemp("pictures"), train=3, val=2)


def converted(pictures, out, *options):
    command = ["--source", "folder", "--root", str(pictures), "--out", str(out), "--shards", "2"]
    assert convert([*command, *(() if "--longest-side" in options else ("--longest-side", "160")), *options]) == 0
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
        places.append(RandomResizedCrop(sizes, 0.3, 0.875, 4).training(2, 48))
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
    prepared = preparation(out, manifest, smallest_cut=0.3, middle=0.8, side=40)
    images = decoded(out, manifest, "val", lambda sizes: RandomResizedCrop(sizes, 0.3, 0.8, 0).evaluation(40))
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


def refused(pictures, out, *options):
    command = ["--source", "folder", "--root", str(pictures), "--out", str(out), "--shards", "1"]
    return convert([*command, *options]) == 2


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_eight_bits_to_a_channel_are_refused(tmp_path, capsys, mode):
    pictures = photo_folders(tmp_path / "pictures", train=1, val=1)
    Image.fromarray(np.full((40, 40), 3000, np.uint16 if mode == "I;16" else np.float32)).save(
        pictures / "train" / "plain" / "deep.tiff"
    )
    assert refused(pictures, tmp_path / "out", "--longest-side", "100", "--convert-rgb")
    assert f"deep.tiff: mode {mode}, of more than eight bits" in capsys.readouterr().err


def test_a_side_that_no_page_could_hold_is_refused(pictures, tmp_path, capsys):
    assert refused(pictures, tmp_path / "out", "--longest-side", "16385")
    assert "16385 is more than 16384 pixels" in capsys.readouterr().err


def test_room_for_large_pictures_is_little_where_there_are_none(pictures, tmp_path):
    out, _ = converted(pictures, tmp_path / "out", "--longest-side", "2000")
    assert sum(file.stat().st_size for file in out.iterdir()) < 200e6


def test_a_jpeg_that_cannot_be_decoded_is_an_error(pictures, tmp_path):
    out, manifest = converted(pictures, tmp_path / "out", "--mode", "jpg")
    shard = out / manifest.splits["val"][0].name
    content = bytearray(shard.read_bytes())
    begin = content.index(b"\xff\xd8\xff")
    content[begin + 2 : begin + 40] = bytes(38)
    shard.write_bytes(content)
    with pytest.raises(LoaderError, match=r"sample \d cannot be decoded"):
        decoded(out, manifest, "val", lambda sizes: RandomResizedCrop(sizes, 0.3, 0.8, 0).evaluation(40))


def test_a_table_that_does_not_fit_the_bytes_is_refused(pictures, tmp_path):
    """Which no reader should follow: the decoder copies as many bytes as were stored."""
    out, manifest = converted(pictures, tmp_path / "out")
    shard = out / manifest.splits["val"][0].name
    rows = Reader(str(shard)).metadata.tobytes()
    content = bytearray(shard.read_bytes())
    begin = content.index(rows)
    row = np.frombuffer(content, Reader(str(shard)).metadata.dtype, count=1, offset=begin).copy()
    row["f0"]["height"] = 1
    content[begin : begin + row.nbytes] = row.tobytes()
    shard.write_bytes(content)
    with pytest.raises(DataError, match="an image whose bytes are not where, or as many as"):
        ShardReader(out, manifest, 5, workers=1, batches_ahead=1, timeout=60)
