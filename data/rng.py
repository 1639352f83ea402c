"""Random numbers as a pure function: the same (seed, epoch, purpose, sample) gives the same number everywhere.

There is no generator whose state has to be saved, seeded per worker or kept in step between ranks. The function is the
finaliser of SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014), applied once per
part of the key.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

X = TypeVar("X", int, Tensor)
UNIFORM = 1 << 24  # bound of the integers that `to_uniform` takes

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """What a random number is used for; numbers of different purposes are independent.

    A new purpose gets the next value. Existing values never change: runs would no longer be reproducible.
    """

    order = 0
    flip = 1
    crop_row = 2
    crop_column = 3
    cutout_row = 4
    cutout_column = 5
    mix_partner = 6
    mix_kind = 7
    mix_lambda = 8
    mix_row = 9
    mix_column = 10
    hold_out = 11
    randaugment_operation = 12
    randaugment_sign = 13
    rrc_area = 14
    rrc_aspect_ratio = 15
    rrc_row = 16
    rrc_column = 17
    window_block = 18


def _signed(value: int) -> int:
    """The int64 with this 64-bit pattern: torch has no arithmetic on uint64."""
    return (value + 2**63) % 2**64 - 2**63


def _wrapped(x: Tensor) -> Tensor:
    """torch's int64 arithmetic wraps around already."""
    return x


def _shift(x: X, bits: int) -> X:
    """Logical right shift of int64; those of torch and Python copy the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: X) -> X:
    wrap = _signed if isinstance(x, int) else _wrapped
    x = wrap(x + _signed(_GOLDEN))
    x = wrap((x ^ _shift(x, 30)) * _signed(_MIX_1))
    x = wrap((x ^ _shift(x, 27)) * _signed(_MIX_2))
    return x ^ _shift(x, 31)


def _key(seed: int, epoch: int, purpose: Purpose) -> int:
    key = 0
    for part in (seed, epoch, int(purpose)):
        key = _mix(key ^ part)
    return key


def hashes(seed: int, epoch: int, purpose: Purpose, ids: Tensor) -> Tensor:
    """Hash of every sample id: int64 with the shape and device of `ids` (int64); all 64 bits are used."""
    return _mix(_mix(ids) ^ _key(seed, epoch, purpose))


def integers(seed: int, epoch: int, purpose: Purpose, ids: Tensor, bound: int | Tensor) -> Tensor:
    """Uniform integers from 0 to bound - 1: int64 with the shape and device of `ids`.

    Args:
        bound: one bound for all ids, or a tensor with one per id. The bias of the modulus is below bound / 2**63.
    """
    return _shift(hashes(seed, epoch, purpose, ids), 1) % bound


def uniforms(seed: int, epoch: int, purpose: Purpose, ids: Tensor) -> Tensor:
    """Uniform numbers from [0, 1), multiples of 2**-24: float32 with the shape and device of `ids`."""
    return to_uniform(integers(seed, epoch, purpose, ids, UNIFORM))


def to_uniform(numbers: Tensor) -> Tensor:
    """Integers below UNIFORM as numbers from [0, 1): float32 with the shape and device of `numbers`."""
    return numbers * (1 / UNIFORM)


class Column(NamedTuple):
    """A column of `random_table`: a uniform integer for every sample, from 0 to bound - 1.

    Attributes:
        per_sample, position: every sample has `per_sample` numbers for this purpose; the column holds the one at
            `position`, counted from 0.
    """

    purpose: Purpose
    bound: int
    per_sample: int = 1
    position: int = 0


def random_table(seed: int, epoch: int, columns: Sequence[Column], ids: Tensor) -> Tensor:
    """The columns' random integers for every sample id: int64 (ids, columns), on the device of `ids` (int64 (ids,)).

    A column equals `integers` for its purpose, its bound and the ids `ids * per_sample + position`, but the number of
    operations does not depend on the number of columns.
    """
    parts = [(_key(seed, epoch, purpose), bound, per, position) for purpose, bound, per, position in columns]
    # shape (4, columns), also without any column
    parameters = torch.tensor(parts, dtype=torch.int64).view(-1, 4).T.to(ids.device)
    keys, bounds, per_sample, positions = parameters.unbind()
    return _shift(_mix(_mix(ids.unsqueeze(1) * per_sample + positions) ^ keys), 1) % bounds
