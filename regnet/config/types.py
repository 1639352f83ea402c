"""The bounded numbers that options can be, checked as they are read."""

from typing import TYPE_CHECKING

from jsonargparse.typing import ClosedUnitInterval, restricted_number_type

if TYPE_CHECKING:
    PositiveReal = float
    NonNegativeReal = float
    Strength = float
    Fraction = float
    Share = float
    Part = float
    Layers = int
    Level = int
    PositiveInt = int
    NonNegativeInt = int
    Side = int
    Pixels = int
    Few = int
    Seed = int
else:  # finite all of them, and no larger than what libraries below can take

    def _number(name: str, kind: type, *bounds: tuple[str, float]) -> type:
        return restricted_number_type(name, kind, list(bounds))

    PositiveReal = _number("PositiveReal", float, (">", 0), ("<=", 1e6))
    NonNegativeReal = _number("NonNegativeReal", float, (">=", 0), ("<=", 1e6))
    Strength = _number("Strength", float, (">=", 0), ("<=", 1e30))
    Fraction = _number("Fraction", float, (">=", 0), ("<", 1))
    Share = ClosedUnitInterval  # the library would not have a second type of these bounds
    Part = _number("Part", float, (">", 0), ("<=", 1))
    Layers = _number("Layers", int, (">=", 0), ("<=", 14))
    Level = _number("Level", int, (">=", 0), ("<=", 30))
    PositiveInt = _number("Count", int, (">", 0), ("<", 2**31))
    NonNegativeInt = _number("CountOrNone", int, (">=", 0), ("<", 2**31))
    Side = _number("Side", int, (">", 0), ("<=", 4096))
    Pixels = _number("Pixels", int, (">=", 0), ("<=", 1024))
    Few = _number("Few", int, (">", 0), ("<=", 1000))
    Seed = _number("Seed", int, (">=", 0), ("<", 2**63))
