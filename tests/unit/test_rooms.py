"""Every room of the package can be surveyed: a room of more has rooms inside."""

from pathlib import Path

import sisa_scale

PACKAGE = Path(sisa_scale.__file__).parent
MOST_ENTRIES = {"sisa_scale": 23, "cli": 25}  # the second has a file for every command


def test_no_room_shows_too_much() -> None:
    for room in [PACKAGE, *(path.parent for path in PACKAGE.rglob("__init__.py"))]:
        entries = {path.name for path in room.iterdir()} - {"__init__.py", "__pycache__"}
        assert len(entries) <= MOST_ENTRIES.get(room.name, 20), room
