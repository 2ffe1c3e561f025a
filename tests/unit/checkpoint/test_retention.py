from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.checkpoint.retention import surplus
from sisa_scale.config.observation import CheckpointConfig

STEPS = range(100, 1100, 100)


def kept(losses: Mapping[int, float] | None = None, **settings: int) -> list[int]:
    removed = surplus(STEPS, losses or {}, CheckpointConfig(**settings))
    return [step for step in STEPS if step not in removed]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"keep_last": 0}, list(STEPS)),
        ({"keep_last": 1}, [1000]),
        ({"keep_last": 3}, [800, 900, 1000]),
        ({"keep_last": 99}, list(STEPS)),
        ({"keep_last": 1, "keep_every_steps": 400}, [400, 800, 1000]),
        ({"keep_last": 2, "keep_every_steps": 1000}, [900, 1000]),
        ({"keep_last": 1, "keep_best": 1}, [300, 1000]),
        ({"keep_last": 1, "keep_best": 2}, [300, 700, 1000]),
        ({"keep_last": 1, "keep_best": 9}, [100, 200, 300, 700, 1000]),
        ({"keep_last": 1, "keep_best": 1, "keep_every_steps": 500}, [300, 500, 1000]),
    ],
)
def test_what_is_kept(settings: dict[str, int], steps: list[int]) -> None:
    losses = {100: 4.0, 200: 3.5, 250: 0.1, 300: 3.0, 700: 3.2, 1000: 3.9}
    assert kept(losses, **settings) == steps


def test_steps_that_branches_need_are_kept() -> None:
    settings = CheckpointConfig(keep_last=1, at_steps=(200, 650, 700))
    assert [step for step in STEPS if step not in surplus(STEPS, {}, settings)] == [200, 700, 1000]


def test_of_equal_losses_the_newer_is_best() -> None:
    assert kept({100: 3.0, 400: 3.0}, keep_last=1, keep_best=1) == [400, 1000]


@given(
    steps=st.sets(st.integers(1, 60), min_size=1),
    losses=st.dictionaries(st.integers(1, 60), st.floats(0, 10)),
    keep_last=st.integers(0, 5),
    keep_every_steps=st.integers(0, 20),
    keep_best=st.integers(0, 4),
)
def test_the_newest_is_never_removed_and_order_does_not_matter(
    steps: set[int], losses: dict[int, float], keep_last: int, keep_every_steps: int, keep_best: int
) -> None:
    settings = CheckpointConfig(keep_last=keep_last, keep_every_steps=keep_every_steps, keep_best=keep_best)
    removed = surplus(steps, losses, settings)
    assert max(steps) not in removed
    assert removed == surplus(sorted(steps, reverse=True), losses, settings)
    left = steps - set(removed)
    assert surplus(left, losses, settings) == []  # once removed, nothing more is surplus
