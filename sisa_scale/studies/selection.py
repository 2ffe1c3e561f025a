"""Which pieces a submission is about."""

from collections.abc import Sequence

from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.errors import ConfigError
from sisa_scale.studies.state import PieceStatus
from sisa_scale.studies.trial import Piece


def check_names(only: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a name that no piece has."""
    for name in only:
        if name not in names:
            hint = did_you_mean(name, names)
            hint = hint if hint.startswith("Did") else "`sisa-scale study plan STUDY` lists them."
            raise ConfigError.at("piece", found=name, allowed="the name of a piece of the study", remedy=hint)


def select(
    pieces: Sequence[Piece], states: Sequence[PieceStatus], only: Sequence[str]
) -> tuple[list[Piece], list[PieceStatus]]:
    """Return the pieces to run, and those that failed and are left alone because nobody asked for them.

    Finished pieces are never run again.
    """
    by_name = {status.piece.name: status for status in states}
    chosen, left_out = [], []
    for piece in pieces:
        status = by_name[piece.name]
        if status.state == "finished" or (only and piece.name not in only):
            continue
        if status.state == "failed" and piece.name not in only:
            left_out.append(status)
        else:
            chosen.append(piece)
    return chosen, left_out
