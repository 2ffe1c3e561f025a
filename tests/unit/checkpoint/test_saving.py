from pathlib import Path

import pytest

from sisa_scale.checkpoint.saving import space_warning
from sisa_scale.checkpoint.storage import LocalPlace
from sisa_scale.checkpoint.store import CheckpointStore


@pytest.mark.parametrize(("free", "warns"), [(2_100_000_000, False), (2_099_999_999, True), (0, True), (None, False)])
def test_a_person_is_told_when_two_checkpoints_will_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, warns: bool
) -> None:
    monkeypatch.setattr(LocalPlace, "free_bytes", lambda _: free)
    message = space_warning(CheckpointStore(tmp_path), 1_000_000_000, 2)
    assert (message is not None) == warns
    if message is not None:
        assert "2 checkpoints of 1.0 GB" in message
        assert str(tmp_path) in message


def test_the_free_space_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    free = LocalPlace(tmp_path / "a" / "b").free_bytes()
    assert free is not None
    assert free > 0
