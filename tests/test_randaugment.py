"""RandAugment's operations against torchvision's."""

import math

import pytest
import torch

from data.augment.randaugment import Operation, RandAugment
from data.rng import Purpose, integers, random_table
from data.sources.torchvision_datasets import torchvision

F, NEAREST = torchvision.transforms.functional, torchvision.transforms.InterpolationMode.NEAREST
COUNT, SIDE = 40, 32
CPU = torch.device("cpu")
EXACT = [Operation.identity, Operation.translate_x, Operation.translate_y]
EXACT += [Operation.posterize, Operation.solarize, Operation.equalize]


@pytest.fixture(scope="module")
def images():
    """Smooth, noisy, dark and constant images: uint8 (N, SIDE, SIDE, 3)."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(COUNT, 3, 4, 4, generator=generator), SIDE, mode="bilinear", align_corners=False
    )
    noisy = torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    planes = torch.cat([smooth, noisy, smooth / 4, noisy / 8 + 0.5])
    constant = torch.full((3, 3, SIDE, SIDE), 0.4)
    return (255 * torch.cat([planes, constant])).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def torchvision_operation(image, operation, sign, magnitude):
    """uint8 (3, SIDE, SIDE) -> the same."""
    strength = sign * magnitude / 30
    degrees = math.degrees(math.atan(0.3 * strength))
    shift = int(150 / 331 * SIDE * strength)
    factor = 1 + 0.9 * strength

    def affine(angle=0.0, translate=(0, 0), shear=(0.0, 0.0)):
        return F.affine(image, angle, list(translate), 1.0, list(shear), interpolation=NEAREST)

    match operation:
        case Operation.identity:
            return image
        case Operation.shear_x:
            return affine(shear=(degrees, 0.0))
        case Operation.shear_y:
            return affine(shear=(0.0, degrees))
        case Operation.translate_x:
            return affine(translate=(shift, 0))
        case Operation.translate_y:
            return affine(translate=(0, shift))
        case Operation.rotate:
            return F.rotate(image, 30 * strength, interpolation=NEAREST)
        case Operation.brightness:
            return F.adjust_brightness(image, factor)
        case Operation.colour:
            return F.adjust_saturation(image, factor)
        case Operation.contrast:
            return F.adjust_contrast(image, factor)
        case Operation.sharpness:
            return F.adjust_sharpness(image, factor)
        case Operation.posterize:
            return F.posterize(image, 8 - round(4 * magnitude / 30))
        case Operation.solarize:
            return F.solarize(image, 255 * (1 - magnitude / 30))
        case Operation.autocontrast:
            return F.autocontrast(image)
        case Operation.equalize:
            return F.equalize(image)


@pytest.mark.parametrize("magnitude", [0, 9, 20, 30])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("operation", Operation)
def test_operations_agree_with_torchvision(images, operation, sign, magnitude):
    count = len(images)
    transform = RandAugment(1, magnitude, SIDE, CPU)
    found = transform.apply(images, torch.full((count,), operation), torch.full((count,), int(sign < 0)))
    expected = torch.stack(
        [torchvision_operation(image.permute(2, 0, 1), operation, sign, magnitude) for image in images]
    )
    difference = (found.permute(0, 3, 1, 2).int() - expected.int()).abs()
    if operation in EXACT:
        assert not difference.any()
    elif operation <= Operation.rotate:
        assert (difference > 0).float().mean() < 0.05, "except where a position lies between two pixels"
    else:
        assert difference.max() <= 1, "floating-point rounding decides between two bytes"
        assert (difference > 0).float().mean() < 0.2


def test_every_sample_gets_its_own_operations(images):
    ids = torch.arange(1000, 1000 + len(images))
    transform = RandAugment(2, 9, SIDE, CPU)

    def augmented(epoch):
        return transform(images, random_table(7, epoch, transform.columns, ids))

    found = augmented(2)
    for row, sample in enumerate(ids.tolist()):
        expected = images[row : row + 1]
        for position in (0, 1):
            key = torch.tensor([2 * sample + position])
            operation = integers(7, 2, Purpose.randaugment_operation, key, len(Operation))
            negative = integers(7, 2, Purpose.randaugment_sign, key, 2)
            expected = transform.apply(expected, operation, negative)
        assert torch.equal(found[row : row + 1], expected)
    counts = integers(7, 2, Purpose.randaugment_operation, 2 * torch.arange(5000), len(Operation)).bincount(
        minlength=14
    )
    assert counts.min() > 0.8 * 5000 / 14
    assert not torch.equal(found, augmented(3)), "other operations in another epoch"


def apply_to_all(operation, images, magnitude, sign=1):
    """Applies an operation to square images, uint8 (N, side, side, 3), and torchvision's to the same images."""
    count = len(images)
    transform = RandAugment(1, magnitude, images.shape[1], CPU)
    found = transform.apply(images, torch.full((count,), operation), torch.full((count,), int(sign < 0)))
    expected = [torchvision_operation(image.permute(2, 0, 1), operation, sign, magnitude) for image in images]
    return found, torch.stack(expected).permute(0, 2, 3, 1)


@pytest.mark.parametrize("operation", [Operation.translate_x, Operation.translate_y])
def test_large_images_are_translated_by_150_of_331_of_their_side(operation):
    """By 181 pixels of 400, rounded down from 181.3."""
    side = 400
    positions = torch.arange(side) % 251
    image = torch.stack([positions.expand(side, side), positions.view(-1, 1).expand(side, side)] * 2, 2)[..., :3]
    image = image.to(torch.uint8).unsqueeze(0)
    shift = torch.zeros_like(image)
    if operation is Operation.translate_x:
        shift[:, :, 181:] = image[:, :, :-181]
    else:
        shift[:, 181:] = image[:, :-181]
    transform = RandAugment(1, 30, side, CPU)
    assert torch.equal(transform.apply(image, torch.tensor([operation]), torch.tensor([0])), shift)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_sharpness_changes_inner_pixels_only_also_of_small_images(side, sign):
    """Below 3x3 pixels there are only border pixels, which stay as they are."""
    images = torch.randint(256, (20, side, side, 3), generator=torch.Generator().manual_seed(side)).to(torch.uint8)
    found, expected = apply_to_all(Operation.sharpness, images, 30, sign)
    if side < 3:
        assert torch.equal(found, images)
    else:
        assert not torch.equal(found, images)
        assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_black_image_stays_black_and_a_white_one_white_unless_it_is_inverted(operation, sign):
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, SIDE, SIDE, 3).contiguous()
    found, expected = apply_to_all(operation, images, 20, sign)
    assert torch.equal(found, expected)
    if operation is not Operation.solarize:
        assert torch.equal(found[0], images[0])


@pytest.mark.parametrize("brightest", [0, 4, 514, 515, 769, 770, 1023])
def test_images_are_equalised_like_torchvisions_whatever_part_of_them_is_brightest(brightest):
    """1,024 pixels. A step of the table is 1/255 of the darker ones: one of 255 to 509 pixels, none of fewer."""
    values = torch.randint(200, (SIDE * SIDE, 3), generator=torch.Generator().manual_seed(brightest))
    values[SIDE * SIDE - brightest :] = 230
    images = values.to(torch.uint8).view(1, SIDE, SIDE, 3)
    found, expected = apply_to_all(Operation.equalize, images, 10)
    assert torch.equal(found, expected)
