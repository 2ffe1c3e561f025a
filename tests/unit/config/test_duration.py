import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.config.duration import Duration

units = st.sampled_from(["steps", "tokens"])


@settings(deadline=None)
@given(st.builds(Duration, st.integers(0, 10**15), units))
def test_text_and_value_are_one(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500 steps", Duration(500, "steps")),
        ("1 step", Duration(1, "steps")),
        ("9_536 steps", Duration(9536, "steps")),
        ("5e9 tokens", Duration(5 * 10**9, "tokens")),
        ("5B tokens", Duration(5 * 10**9, "tokens")),
        ("1.5M tokens", Duration(1_500_000, "tokens")),
        (" 2T  tokens ", Duration(2 * 10**12, "tokens")),
        ("0 steps", Duration(0, "steps")),
    ],
)
def test_accepted_forms(text: str, duration: Duration) -> None:
    assert Duration.parse(text) == duration


@pytest.mark.parametrize(
    "text", ["500", 500, 5e9, None, True, "steps", "-5 steps", "5 epochs", "5 k steps", "5 steps!"]
)
def test_a_duration_has_a_unit(text: object) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["0.5 steps", "1.5 tokens", "1.2345K tokens"])
def test_parts_of_a_step_or_token_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("4.1M tokens", 4_100_000), ("1.07B tokens", 1_070_000_000), (f"{2**53 + 1} tokens", 2**53 + 1)],
)
def test_decimal_fractions_and_large_counts_are_exact(text: str, count: int) -> None:
    assert Duration.parse(text).count == count
