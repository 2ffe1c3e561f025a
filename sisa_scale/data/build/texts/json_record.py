"""The text of one line of JSON, and what can be wrong with it."""

import json
from collections.abc import Callable
from typing import Any

from sisa_scale.data.build.texts.records import BadRecord, BadRecordError, Record, decode

_ONE_A_LINE = "Write the objects one a line, for example with: jq -c 'if type == \"array\" then .[] else . end'"


def json_record(line: bytes, number: int, field: str, where: Callable[[], str]) -> Record | BadRecord:
    """Return the record of a line. number: becomes its index; where: asked for only if the line is bad."""
    import orjson

    try:
        text = orjson.loads(line)[field]
    except (ValueError, TypeError, KeyError, IndexError):
        text = None
    if type(text) is not str:  # rare: find out why, by the rules of the standard library
        try:
            text = _text_field(decode(line, where()), where(), field)
        except BadRecordError as error:
            return BadRecord(number, error.problems[0])
    return Record(text, number)


def _text_field(line: str, where: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecordError.at(
            where,
            found=f"a line that is not JSON ({error})",
            allowed="every line of a .jsonl file is one JSON object",
            remedy=_ONE_A_LINE if line.strip() in ("[", "{") else "Correct or remove the line.",
        ) from error
    text, is_there = _look_up(record, field)
    if not is_there:
        raise BadRecordError.at(
            where,
            found=f"the fields {sorted(record)}" if isinstance(record, dict) else f"a {type(record).__name__}",
            allowed=f'every line is an object whose field "{field}" is a string',
            remedy=_ONE_A_LINE
            if isinstance(record, list)
            else "Name the field that holds the document with --text-field, or correct the line.",
        )
    if not isinstance(text, str):
        raise BadRecordError.at(
            where,
            found=f"{'null' if text is None else f'{type(text).__name__} {str(text)[:20]}'} in the field {field!r}",
            allowed="the field of every line is a string",
            remedy="Correct or remove the line.",
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRecordError.at(
            where,
            found="half of a surrogate pair (\\ud800 to \\udfff) in the text",
            allowed="the text is valid Unicode",
            remedy="Write the file again with whole characters.",
        )
    return text


def _look_up(record: Any, field: str) -> tuple[Any, bool]:
    """Return the value of a field, and whether it is there; `a.b` is the field "a.b", or else "b" in the object "a"."""
    if isinstance(record, dict) and field in record:
        return record[field], True
    first, _, rest = field.partition(".")
    if rest and isinstance(record, dict) and first in record:
        return _look_up(record[first], rest)
    return None, False
