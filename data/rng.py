"""Random draws as a pure function: the same (seed, epoch, purpose, sample) gives the same number everywhere.

No generator has a state to save, to seed per worker or to keep in step between ranks. The function is the
finaliser of SplitMix64 (Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014), applied
once for each part of the key.
"""

from enum import IntEnum
from typing import Any, TypeVar

from torch import Tensor

X = TypeVar("X", int, Tensor)
Epoch = int | Tensor  # a number, or int64 () on the device of what is drawn for

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """What a draw is for: draws of different purposes are independent."""

    order = 0
    flip = 1
    crop_row = 2
    crop_column = 3
    cutout_row = 4
    cutout_column = 5
    mix_partner = 6
    mix_kind = 7
    mix_share = 8
    mix_row = 9
    mix_column = 10
    hold_out = 11
    operation = 12
    operation_sign = 13
    cut_area = 14
    cut_shape = 15
    cut_row = 16
    cut_column = 17
    run = 18


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that has it: torch has no arithmetic on uint64."""
    return (value + 2**63) % 2**64 - 2**63


def _wrapped(x: Tensor) -> Tensor:
    """int64 of torch wraps around by itself."""
    return x


def _shift(x: X, bits: int) -> X:
    """Logical right shift of int64; torch's own, and Python's, copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: X) -> X:
    wrap = _signed if isinstance(x, int) else _wrapped
    x = wrap(x + _signed(_GOLDEN))
    x = wrap((x ^ _shift(x, 30)) * _signed(_MIX_1))
    x = wrap((x ^ _shift(x, 27)) * _signed(_MIX_2))
    return x ^ _shift(x, 31)


def hashes(seed: int, epoch: Epoch, purpose: Purpose, ids: Tensor) -> Tensor:
    """Hash of each sample id: int64, shape and device of `ids` (int64), all 64 bits used."""
    key: Any = 0  # a number until it meets a tensor
    for part in (seed, epoch, int(purpose)):
        key = _mix(key ^ part)
    return _mix(_mix(ids) ^ key)


def integers(seed: int, epoch: Epoch, purpose: Purpose, ids: Tensor, bound: int | Tensor) -> Tensor:
    """Uniform draws from 0 to bound - 1, one for all or each one's own: int64, shape and device of `ids`.

    The bias of the modulus is below bound / 2**63.
    """
    return _shift(hashes(seed, epoch, purpose, ids), 1) % bound


def uniforms(seed: int, epoch: Epoch, purpose: Purpose, ids: Tensor) -> Tensor:
    """Uniform draws from [0, 1): float32, all multiples of 2**-24; shape and device of `ids`."""
    return integers(seed, epoch, purpose, ids, 1 << 24) * 2.0**-24
