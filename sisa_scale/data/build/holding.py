"""Which documents are held out: by a hash of their text, and by other rules only where that would hold out none.

hash        the documents whose number (a hash of text and seed) is below the share; equal documents never part
lowest      the same with the lowest share that holds out enough documents, at least one
stretches   of each document stretches spread evenly (`cuts.Cutting`), because there are only a few documents
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from sisa_scale.data.build.inputs.survey import NUM_LOWEST
from sisa_scale.data.build.shards.summaries import PartSurvey
from sisa_scale.data.build.texts.cleaning import Cleaning, is_heldout_number
from sisa_scale.data.build.texts.cuts import MIN_STRETCH_BYTES, Cutting

# With fewer documents, holding out whole ones would take too much of the text.
_MIN_DOCUMENTS = 10
_NUM_STRETCHES = 16


@dataclass(frozen=True, slots=True)
class Holding:
    """How documents are held out. fraction: below it a document's number holds it out; cutting: of "stretches"."""

    rule: str
    fraction: float
    cutting: Cutting | None = None
    reason: str = ""


def choose_holding(fraction: float, surveys: Sequence[PartSurvey | None], cleaning: Cleaning) -> Holding:
    """Return the rule for a share of the documents. surveys: of all parts of the inputs; None where one is unknown."""
    # So long that no stretch is left out for being short: a character has 4 bytes at most, a token more than 8 rarely.
    min_bytes = max(MIN_STRETCH_BYTES, 4 * cleaning.min_characters, 8 * cleaning.min_tokens)
    known = [survey for survey in surveys if survey is not None]
    by_hash = Holding("hash", fraction)
    num_documents = sum(survey.num_documents for survey in known)
    if not fraction or len(known) < len(surveys) or not num_documents:
        return by_hash
    lowest = heapq.nsmallest(NUM_LOWEST, {number for survey in known for number in survey.lowest})
    num_held = sum(is_heldout_number(number, fraction) for number in lowest)
    if 0 < num_held < len(lowest) or num_held == NUM_LOWEST:
        return by_hash
    found = f"the share of {fraction:g} holds out {'all' if num_held else 'none'} of {num_documents:,} documents"
    if len(lowest) >= _MIN_DOCUMENTS:  # of different texts
        wanted = min(max(1, round(fraction * num_documents)), len(lowest) - 1)
        # 53 bits of the number, which a float holds exactly, and one more, so that the number itself is below.
        share = ((lowest[wanted - 1] >> 11) + 1) / 2**53
        return Holding("lowest", share, reason=f"{found}; the next by their hashes are held out instead ({wanted})")
    if max(survey.longest_bytes for survey in known) < 4 * min_bytes:
        return by_hash
    reason = f"{found}; stretches of every document are held out instead, and what lies between is trained on"
    return Holding("stretches", fraction, Cutting(fraction, _NUM_STRETCHES, min_bytes), reason)
