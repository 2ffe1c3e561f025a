"""JSON of others, read with suspicion."""

import json
from pathlib import Path
from typing import Any

from sisa_scale.errors import CheckpointError

_MOST_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; raises CheckpointError when it is missing, too large, or none."""
    found = None
    try:
        if path.stat().st_size > _MOST_BYTES:
            found = f"{path.stat().st_size} bytes"
        else:
            value = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(value, dict):
                return value
            found = f"a JSON {type(value).__name__}"
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, RecursionError) as error:
        found = f"unreadable JSON ({error})"
    raise CheckpointError.at(
        path, found=found, allowed="a JSON object describes the model", remedy="Copy or convert it again."
    )
