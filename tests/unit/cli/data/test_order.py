import pytest

from sisa_scale.cli.data.order import order_config
from sisa_scale.errors import ConfigError


def test_an_order_is_that_of_the_recipe() -> None:
    data = order_config("here", 3, 512, "[{until: 5 steps, global_batch_tokens: 128}]", 64, 2)
    assert [data.batches.positions(step) for step in (0, 5)] == [range(2), range(10, 18)]
    assert order_config("here", 3, 512, None, 64).batches.positions(5) == range(40, 48)


@pytest.mark.parametrize(
    ("ramp", "words"),
    [
        ("[{until: 5, global_batch_tokens: 128}]", "a duration with its unit"),
        ("[{until: 5 steps, global_batch_tokens: 100}]", "must be a multiple of data.sequence_tokens 64"),
        ("[", "--global-batch-ramp: found '\\['"),
        ("5 steps", "must be a list"),
    ],
)
def test_a_ramp_that_is_none_is_refused(ramp: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        order_config("here", 3, 512, ramp, 64)
