"""What a data set calls its inputs."""

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from sisa_scale.data.build.inputs.input_file import is_remote, printable, without_query


class Namer:
    """Gives files names relative to the folder that all inputs lie in; local ones and those of servers apart."""

    def __init__(self, roots: Sequence[str]) -> None:
        local = [os.path.normpath(Path(root).absolute()) for root in roots if not is_remote(root)]
        self._local = os.path.commonpath(local) if local else ""
        remote = [root.split("/") for root in roots if is_remote(root)]
        common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*remote, strict=False))]
        # Below a host of its own, and not beside local files, which could have the same names.
        self._remote = "/".join([*common, ""]) if len(common) > 2 and not local else ""

    def name(self, url: str) -> str:
        """Return the name of a file, or of a folder whose path ends with a slash."""
        if is_remote(url):
            return without_query(url).removeprefix(self._remote)
        return printable(os.path.relpath(Path(url).absolute(), self._local) + ("/" if url.endswith("/") else ""))
