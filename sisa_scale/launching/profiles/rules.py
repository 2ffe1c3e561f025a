"""Rules that profiles of several targets share."""

import re
from collections.abc import Iterable, Iterator

from sisa_scale.config.fields import Violation

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Whole words: TOKENIZERS_PARALLELISM is no secret.
_SECRET = re.compile(r"(API_?KEY|TOKEN|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?|ACCESS_?KEY)(?![A-Z])", re.IGNORECASE)


def environment_rules(environment: Iterable[str]) -> Iterator[Violation]:
    """Yield what is wrong with `NAME=VALUE` entries; one that looks like a secret is wrong."""
    for entry in environment:
        name, equals, _ = entry.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            yield Violation("environment", repr(entry), "must be NAME=VALUE", "Write it so.")
        elif _SECRET.search(name):
            remedy = "Export it where you submit (Slurm, local), or name a Kubernetes secret in secrets."
            yield Violation("environment", f"{name}=...", "a profile holds no secrets", remedy)


def word_rules(values: dict[str, str | None], pattern: str, meaning: str) -> Iterator[Violation]:
    """Yield the values by field name that are not of the form `pattern`; None is."""
    for name, value in values.items():
        if value is not None and not re.fullmatch(pattern, value):
            yield Violation(name, repr(value), f"must be {meaning}", "Correct it.")
