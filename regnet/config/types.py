"""The bounded numbers that options can be, checked as they are read."""

from typing import TYPE_CHECKING

from jsonargparse.typing import ClosedUnitInterval, restricted_number_type

if TYPE_CHECKING:
    PositiveFloat = float
    NonNegativeFloat = float
    Strength = float
    Fraction = float
    Probability = float
    PositiveFraction = float
    RandAugmentOps = int
    RandAugmentMagnitude = int
    PositiveInt = int
    NonNegativeInt = int
    SideLength = int
    Pixels = int
    SmallCount = int
    Seed = int
else:  # finite all of them, and no larger than what libraries below can take

    def _number(name: str, kind: type, *bounds: tuple[str, float]) -> type:
        return restricted_number_type(name, kind, list(bounds))

    PositiveFloat = _number("positive number", float, (">", 0), ("<=", 1e6))
    NonNegativeFloat = _number("number >= 0", float, (">=", 0), ("<=", 1e6))
    Strength = _number("number >= 0 ", float, (">=", 0), ("<=", 1e30))
    Fraction = _number("number in [0, 1)", float, (">=", 0), ("<", 1))
    Probability = ClosedUnitInterval  # the library would not have a second type of these bounds
    PositiveFraction = _number("number in (0, 1]", float, (">", 0), ("<=", 1))
    RandAugmentOps = _number("integer in 0..14", int, (">=", 0), ("<=", 14))
    RandAugmentMagnitude = _number("integer in 0..30", int, (">=", 0), ("<=", 30))
    PositiveInt = _number("positive integer", int, (">", 0), ("<", 2**31))
    NonNegativeInt = _number("integer >= 0", int, (">=", 0), ("<", 2**31))
    SideLength = _number("integer in 1..4096", int, (">", 0), ("<=", 4096))
    Pixels = _number("integer in 0..1024", int, (">=", 0), ("<=", 1024))
    SmallCount = _number("integer in 1..1000", int, (">", 0), ("<=", 1000))
    Seed = _number("integer in 0..2**63-1", int, (">=", 0), ("<", 2**63))
