"""How much the tests try: a little of everything (`make test`), or many cases (`make test-all`, `pytest --thorough`).

tests/conftest.py loads the Hypothesis profile that carries the choice before it imports any test.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

# Quick runs try the same examples each time, so that a newcomer's first test run finds no new defect.
settings.register_profile("quick", deadline=None, max_examples=10, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=100)


def either(*, quick: T, thorough: T) -> T:
    """What a test uses in the profile that is loaded."""
    return thorough if settings.get_current_profile_name() == "thorough" else quick


def examples(number: int, **more: Any) -> settings:
    """Settings of a property test: this many examples in a thorough run; a tenth, but at least 10, in a quick one."""
    return settings(max_examples=either(quick=min(number, max(10, number // 10)), thorough=number), **more)


def parametrize_some(
    names: str | tuple[str, ...], cases: Iterable[Any], quick: int = 1, **more: Any
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize`, of whose cases a quick run takes the first ones only."""
    chosen = list(cases)
    others = (case if isinstance(names, tuple) else (case,) for case in chosen[quick:])
    marked = (pytest.param(*case, marks=pytest.mark.thorough) for case in others)
    return pytest.mark.parametrize(names, [*chosen[:quick], *marked], **more)
