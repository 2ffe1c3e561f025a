"""Where a long text can be cut: at places where the tokenizer cuts it anyway, so that the cut leaves no trace.

A place is good if the ids of what surrounds it are those of its two sides. Most tokenizers split a text into words
before all else, so single ends of lines are such places; they are tried first.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

# How far beyond the wanted place a cut is looked for, and how much of the text on each side decides.
WINDOW_BYTES = 1 << 18
_CONTEXT_BYTES = 1 << 11
_MAX_TRIED = 32

# The least that is worth being held out.
MIN_STRETCH_BYTES = 128

# From the best to the worst. Groups: what lies before the cut.
_PLACES = (
    re.compile(rb"[^\s]\n(?=[^\s])"),  # after a single end of a line
    re.compile(rb"\n(?=[^\s])"),  # after several
    re.compile(rb"[^\s](?=\n)"),
    re.compile(rb"[A-Za-z](?= [A-Za-z])"),  # before the space of a word
    re.compile(rb"[.!?](?= )"),
    re.compile(rb"[\x00-\xff](?=[\x00-\x7f\xc0-\xff])"),  # before any character
)

# Says whether two texts have, one after the other, the ids of both joined.
IsExact = Callable[[str, str], bool]


def find_cut(window: bytes, is_exact: IsExact) -> int:
    """Return where to cut in the first bytes of a long text: the first good place, or else the first line or word.

    The same window gives the same place. 0 or more and at most the length of the window.
    """
    fallback = -1
    for place in _PLACES:
        for tried, match in enumerate(place.finditer(window)):
            if tried == _MAX_TRIED:
                break
            at = match.end()
            if fallback < 0:
                fallback = at
            if is_good_cut(window, at, is_exact):
                return at
    return fallback if fallback >= 0 else len(window)


def is_good_cut(raw: bytes, at: int, is_exact: IsExact) -> bool:
    """Say whether a cut leaves no trace in the ids."""
    left, right = raw[max(0, at - _CONTEXT_BYTES) : at], raw[at : at + _CONTEXT_BYTES]
    return is_exact(left.decode(errors="ignore"), right.decode(errors="ignore"))


def split_text(text: str, num_characters: int, is_exact: IsExact) -> list[str]:
    """Cut a text into pieces of about so many characters with the same ids; fewer where there is no good place."""
    pieces, start = [], 0
    while len(text) - start > 2 * num_characters:
        window = text[start + num_characters : start + num_characters + WINDOW_BYTES // 4].encode()
        at = find_cut(window, is_exact)
        if not is_good_cut(window, at, is_exact):
            break
        stop = start + num_characters + len(window[:at].decode())
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


@dataclass(frozen=True, slots=True)
class Cutting:
    """How documents are cut where they are too few to hold some of them out.

    fraction: share of a text that is held out, in `num_stretches` stretches spread evenly, fewer in a short text;
    min_bytes: of such a stretch. A text shorter than four of them is not cut.
    """

    fraction: float
    num_stretches: int
    min_bytes: int

    def stretches(self, num_bytes: int) -> list[tuple[int, int, int]]:
        """Return (start, stop, split) of the stretches of a text of so many bytes; split: 0 training, 1 held out."""
        if num_bytes < 4 * self.min_bytes:
            return [(0, num_bytes, 0)]
        held = max(self.fraction * num_bytes, self.min_bytes)
        count = max(1, min(self.num_stretches, int(held / self.min_bytes / 16)))
        bounds = [0]
        for number in range(count):
            middle = (number + 0.5) * num_bytes / count
            bounds += [int(middle - held / count / 2), int(middle + held / count / 2)]
        bounds.append(num_bytes)
        return [(start, stop, number % 2) for number, (start, stop) in enumerate(pairwise(bounds)) if stop > start]

    def placed(self, num_bytes: int, read: Callable[[int, int], bytes]) -> list[tuple[int, int, int]]:
        """Return the stretches with their bounds at lines or words. read: the bytes of the text from an offset on."""
        wanted = self.stretches(num_bytes)
        reach = min(stop - start for start, stop, _ in wanted) // 2
        placed, begin = [], 0
        for _, stop, split in wanted:
            end = num_bytes if stop == num_bytes else stop + _near_place(read(stop, min(reach, WINDOW_BYTES)))
            if end > begin:
                placed.append((begin, end, split))
            begin = end
        return placed

    def cut(self, text: str) -> list[tuple[str, int]]:
        """Return the stretches of a text and the split of each."""
        raw = text.encode()
        placed = self.placed(len(raw), lambda offset, num_bytes: raw[offset : offset + num_bytes])
        return [(raw[start:stop].decode(), split) for start, stop, split in placed]


def _near_place(window: bytes) -> int:
    """Return where to cut near the beginning of a window, whatever the tokenizer: at a line, a word, a character."""
    for pattern in (rb"\n(?=[^\s])", rb"\s(?=[^\s])", rb"(?=[\x00-\x7f\xc0-\xff])"):
        if match := re.search(pattern, window):
            return match.end()
    return len(window)
