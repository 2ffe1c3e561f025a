from collections.abc import Iterator

import pytest

from sisa_scale.orchestration import watch_nodes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that goes on with every pause."""
    now = [0.0]
    monkeypatch.setattr(watch_nodes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch_nodes.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return iter([now]).__next__()


def answering(monkeypatch: pytest.MonkeyPatch, clock: list[float], *numbers: tuple[float, int]) -> None:
    """Let so many nodes answer from a time on."""

    def living_nodes() -> dict[str, int]:
        count = next(number for since, number in reversed(numbers) if clock[0] >= since)
        return dict.fromkeys(map(str, range(count)), 0)

    monkeypatch.setattr(watch_nodes, "living_nodes", living_nodes)


def test_nodes_are_awaited_until_they_are_there_or_time_is_over(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    answering(monkeypatch, clock, (0, 1), (7, 2))
    assert watch_nodes.await_nodes(2, 100) == 2
    assert 7 <= clock[0] < 8
    assert watch_nodes.await_nodes(3, 10) == 2
    assert 17 <= clock[0] < 18.5
    assert watch_nodes.await_nodes(3, 0) == 2


def test_a_node_is_lost_after_half_a_minute_of_silence(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    answering(monkeypatch, clock, (0, 2), (100, 1), (120, 2), (200, 1))
    watch_nodes.await_loss(2)
    assert 225 <= clock[0] <= 235
    clock[0] = 0.0
    answering(monkeypatch, clock, (0, 2), (100, 1), (300, 0))
    watch_nodes.await_loss(1)  # one is enough
    assert 325 <= clock[0] <= 335


def test_a_ray_that_takes_no_one_in_yet_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def init(address: str, **_: object) -> None:
        if clock[0] < 60:
            raise ConnectionError(f"Failed to connect to {address}")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    assert not watch_nodes.connect("10.0.0.1:20000", 30)
    assert "10.0.0.1:20000 takes no one in" in capsys.readouterr().err
    assert watch_nodes.connect("10.0.0.1:20000", 300)
