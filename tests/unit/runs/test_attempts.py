from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.runs.attempts import (
    LOOP_ATTEMPTS,
    Attempt,
    crash_loop,
    deaths_by_node,
    read_attempts,
    restart_delay_seconds,
    with_cause_of_death,
    write_attempts,
)

OUTCOMES = st.sampled_from(["failed", "failed", "failed", "finished", "preempted", "interrupted", "rolled_back"])


def attempt(outcome: str = "failed", reached_step: int = 7, *, is_final: bool = False, **more: Any) -> Attempt:
    line: dict[str, Any] = {"attempt": 1, "world_size": 2, "zero_stage": 1, "processes": ["a:1", "b:2"]}
    line |= {"nodes": ["A", "B"], "started": "2026-01-01T00:00:00.000+00:00", "outcome": outcome}
    return Attempt.from_json(line | {"reached_step": reached_step, "is_final": is_final} | more)


HISTORIES = st.lists(st.builds(attempt, OUTCOMES, st.integers(0, 2), is_final=st.booleans()), max_size=8)


@given(HISTORIES)
def test_a_loop_is_the_same_step_three_times_and_nothing_else(attempts: list[Attempt]) -> None:
    loop = crash_loop(attempts)
    last = attempts[-LOOP_ATTEMPTS:]
    is_loop = len(last) == LOOP_ATTEMPTS and all(a.outcome == "failed" and not a.is_final for a in last)
    assert loop == (last if is_loop and len({a.reached_step for a in last}) == 1 else [])


def test_a_person_who_goes_on_has_three_tries_again() -> None:
    attempts = [attempt(), attempt(), attempt(is_final=True), attempt(), attempt()]
    assert not crash_loop(attempts)
    assert crash_loop([*attempts, attempt()])


@given(HISTORIES)
def test_waiting_is_bounded_and_comes_only_after_failures(attempts: list[Attempt]) -> None:
    delay = restart_delay_seconds(attempts)
    assert 0 <= delay <= 60
    assert not delay or attempts[-1].outcome == "failed"


def test_waiting_doubles_without_progress_and_ends_with_it() -> None:
    stuck = [attempt() for _ in range(9)]
    delays = [restart_delay_seconds(stuck[:number]) for number in range(len(stuck) + 1)]
    assert delays == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60]
    assert restart_delay_seconds([*stuck, attempt(reached_step=8)]) == 0


def event(kind: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "attempt": number, **fields}


def test_the_first_to_die_is_named_and_not_those_who_complain() -> None:
    gone = event("error", rank=0, error="RuntimeError: Connection closed by peer [10.0.0.2]:4711")
    lost = event("workers_lost", ranks=[1], reason="rank 1 (b:2): exit code 9")
    own = event("error", rank=1, error="RuntimeError: no CUDA-capable device")
    hang = event("hang", suspects=[1], message="rank 1 is silent")
    other = event("workers_lost", 2, ranks=[0], reason="another attempt")
    told = {
        "nothing": with_cause_of_death(attempt(), [other]),
        "echo": with_cause_of_death(attempt(), [gone]),
        "lost": with_cause_of_death(attempt(), [gone, lost]),
        "own": with_cause_of_death(attempt(), [gone, own, lost]),
        "hang": with_cause_of_death(attempt(), [gone, hang, lost]),
        "rollback": with_cause_of_death(attempt(), [event("rollback"), lost]),
    }
    assert {name: cause.dead_nodes for name, cause in told.items()} == {
        "nothing": [], "echo": [], "lost": ["B"], "own": ["B"], "hang": ["B"], "rollback": []
    }  # fmt: skip
    assert "no process left a word" in told["nothing"].reason
    assert "left no word" in told["echo"].reason
    assert told["lost"].reason == "rank 1 (b:2): exit code 9"
    assert told["own"].reason == "rank 1: RuntimeError: no CUDA-capable device"
    assert told["hang"].reason == "a hang: rank 1 is silent"
    assert told["rollback"].outcome == "rolled_back"


def test_deaths_count_for_nodes_until_a_person_goes_on() -> None:
    on_b = attempt(dead_nodes=["B"])
    assert deaths_by_node([on_b, attempt(dead_nodes=["A", "B"]), attempt("preempted", dead_nodes=["A"])]) == {
        "B": 2, "A": 1
    }  # fmt: skip
    assert deaths_by_node([on_b, attempt(is_final=True, dead_nodes=["B"]), on_b]) == {"B": 1}


LINE = (
    '{"attempt": 1, "world_size": 2, "zero_stage": 1, "processes": ["vm:1", "vm:2"], "nodes": ["vm", "vm"], '
    '"started": "2026-11-29T05:31:56.190+00:00", "resumed": "2026-11-29T05:31:57.182+00:00", "ended": null, '
    '"from_step": 0, "reached_step": 12, "outcome": "finished", "reason": null, "dead_ranks": [], "dead_nodes": [], '
    '"lost_steps": 0, "lost_seconds": 0.0, "is_final": false}\n'
)


def test_a_line_comes_back_to_the_last_byte(tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_text(LINE)
    attempts = read_attempts(tmp_path)
    assert attempts[0].resumed == datetime.fromisoformat("2026-11-29T05:31:57.182+00:00")
    write_attempts(tmp_path, attempts)
    assert (tmp_path / "attempts.jsonl").read_text() == LINE
