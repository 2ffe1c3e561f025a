from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.build.shards.dedup import find_duplicates


@given(
    parts=st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=20), max_size=5),
    max_documents=st.sampled_from([1, 4, 1000]),
)
@settings(deadline=None, max_examples=60)
def test_the_first_of_equal_hashes_stays(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[int, int]]], max_documents: int
) -> None:
    scratch: Path = tmp_path_factory.mktemp("scratch")
    hashes = [np.array(part, dtype=np.uint64).reshape(-1, 2) for part in parts]
    flat = [pair for part in parts for pair in part]
    found = find_duplicates(hashes, len(flat), scratch, max_documents)
    assert found.tolist() == [pair in flat[:number] for number, pair in enumerate(flat)]
    assert [path.name for path in scratch.iterdir()] == ["duplicates"]
