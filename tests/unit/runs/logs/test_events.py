import ast
from pathlib import Path
from typing import Any

import pytest

import sisa_scale
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.events import EVENTS, EventFeed, describe, event_warnings, read_events, stalled_seconds

PACKAGE = Path(sisa_scale.__file__).parent


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (
            {
                "event": "hang",
                "attempt": 3,
                "message": "rank 0 was step for 60.1 s, bound 50.0 s; ranks [1] gave no sign",
            },
            ["ranks [1] gave no sign", "diagnostics/attempt_0003", "goes on from the newest checkpoint"],
        ),
        (
            {"event": "checkpoint_damaged", "step": 9, "moved_to": "/a", "resumed_from_step": 6, "lost_steps": 3},
            ["step 9 is damaged", "moved to /a", "goes on from step 6, 3 steps are taken again"],
        ),
        (
            {"event": "checkpoint_failed", "step": 9, "problems": ["/a: found a full disk; rule. Remedy."]},
            ["step 9 could not be written: /a: found a full disk; rule. Remedy. If steps are left, training"],
        ),
        (
            {"event": "optimizer_replaced", "step": 1200, "before": "adamw", "after": "muon", "lost": "exp_avg of 2"},
            ["from step 1,200 on muon takes the place of adamw; given up: exp_avg of 2"],
        ),
        (
            {"event": "float8_products", "products": 96, "blocks": 24, "left_in_bf16": {}},
            ["96 products of 24 blocks in float8"],
        ),
        (
            {"event": "float8_products", "products": 1, "blocks": 1, "left_in_bf16": {"mixer.project (292 x 64)": 1}},
            ["1 product of 1 block in float8; left in bf16: mixer.project (292 x 64) in 1 block"],
        ),
        (
            {"event": "resumed", "attempt": 2, "step": 6, "world_size": 1, "lost_steps": 2, "lost_seconds": 3.0}
            | {"down_seconds": 8.2},
            ["attempt 2 goes on from step 6 with 1 worker", "8 s after", "2 steps (3.0 s of work) were lost"],
        ),
    ],
)
def test_an_event_says_what_happened_what_was_lost_and_what_is_next(event: dict[str, Any], parts: list[str]) -> None:
    words = describe(event)
    assert words is not None
    for part in parts:
        assert part in words


def noted_events() -> list[tuple[str, str, set[str], bool]]:
    """Return (place, kind, fields, whether there are others) of every event that the package notes."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event"):
                continue
            kind = node.args[0]
            assert isinstance(kind, ast.Constant), path
            names = {keyword.arg for keyword in node.keywords}
            place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            found.append((place, str(kind.value), {name for name in names if name}, None in names))
    return found


def test_every_event_is_noted_as_it_is_declared() -> None:
    noted = noted_events()
    assert {kind for _, kind, _, _ in noted} == set(EVENTS)
    for place, kind, fields, has_more in noted:
        declared = set(EVENTS[kind].fields)
        assert fields <= declared if has_more else fields == declared, place


def test_an_event_that_is_not_declared_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="'party'"):
        RunDirectory(tmp_path).event("party")


def test_events_of_another_version_are_passed_over() -> None:
    assert describe({"event": "party"}) is None
    assert describe({"event": "rollback"}) is None
    assert describe({}) is None


def test_a_feed_tells_what_is_new_in_words(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.event("resize", workers=2)
    feed = EventFeed(tmp_path)
    directory.event("evaluation", step=3, seconds=1.0)
    directory.event("resize", workers=3)
    assert list(feed.news()) == ["the number of workers changes to 3: saving a checkpoint, then starting again"]
    assert list(feed.news()) == []


def test_events_are_counted(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.event("checkpoint", step=2, stall_seconds=1.0, write_seconds=2.0, bytes=3)
    directory.event("checkpoint_failed", step=4, stall_seconds=0.5, write_seconds=2.0, bytes=0, problems=[])
    directory.event("evaluation", step=4, seconds=3.0)
    events = read_events(tmp_path)
    assert stalled_seconds(events) == {"checkpoint": 1.5, "evaluation": 3.0, "profile": 0.0}
    assert event_warnings(events) == ["1 checkpoints could not be written"]
    assert all(event["attempt"] == 0 for event in events)
