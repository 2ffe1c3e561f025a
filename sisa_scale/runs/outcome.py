"""How an attempt may end of itself. Needs no torch."""

from typing import Literal

Outcome = Literal["finished", "preempted", "interrupted"]
