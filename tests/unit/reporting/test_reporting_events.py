from typing import Any

import pytest

from sisa_scale.runs.events import describe


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
