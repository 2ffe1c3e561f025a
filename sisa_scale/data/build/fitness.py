"""Whether a tokenizer is fit for a data set: gives the same ids each time, and keeps the text."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.errors import DataError

_SAMPLE_CHARACTERS, _TEXT_CHARACTERS = 1 << 18, 1 << 13
# Of the characters; a space that is put before a text or taken from its end is no loss.
_NOTABLE_SHARE = 1e-4
_MAX_NAMED = 5


def check_fitness(tokenizer: Tokenizer) -> None:
    """Raise DataError for a tokenizer that draws its ids at random."""
    if tokenizer.randomness:
        raise DataError.at(
            tokenizer.path,
            found=f"a tokenizer that draws ids at random ({tokenizer.randomness})",
            allowed="the same text gives the same ids each time",
            remedy=f"Set {tokenizer.randomness.partition(' ')[0]} to null in a copy of the file, and use that.",
        )


def lost_share(tokenizer: Tokenizer, sample: Iterable[str], announce: Callable[[str], None]) -> float:
    """Return the share of the characters of a sample that do not come back from their ids; say so if it is notable.

    Unicode forms that are equal count as equal.
    """
    lost: Counter[str] = Counter()
    total = 0
    for text in sample:
        shown = text[:_TEXT_CHARACTERS]
        there = Counter(unicodedata.normalize("NFKC", shown))
        back = Counter(unicodedata.normalize("NFKC", tokenizer.decode(tokenizer.encode(shown))))
        missing = there - back
        missing[" "] = max(0, missing[" "] - 1)
        lost += missing
        total += there.total()
        if total >= _SAMPLE_CHARACTERS:
            break
    share = round(lost.total() / max(1, total), 6)
    if share >= _NOTABLE_SHARE:
        named = ", ".join(f"{character!a} ({count:,})" for character, count in lost.most_common(_MAX_NAMED))
        announce(
            f"warning: the tokenizer loses {share:.2%} of the characters of a sample of {total:,}, most often {named}; "
            "a model cannot learn them"
        )
    return share
