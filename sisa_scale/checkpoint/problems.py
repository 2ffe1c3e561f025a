"""What can be wrong with a checkpoint, in the words of its errors."""

import errno

from sisa_scale.errors import CheckpointError


class DamageError(CheckpointError):
    """A checkpoint that is not what was written. Reading it again would not help; an older one may."""


class WriterError(CheckpointError):
    """Another life of the run has claimed the checkpoints: this one may write no more."""


def damaged(where: object, found: str, allowed: str) -> DamageError:
    """Return the error of a file that is not what was written."""
    remedy = "Restore it from a copy, or leave it: `sisa-scale resume` goes on from the newest sound checkpoint."
    return DamageError.at(where, found=found, allowed=allowed, remedy=remedy)


def unreadable(where: object, error: OSError) -> CheckpointError:
    """Return the error of a file that is not given now and may be sound."""
    return CheckpointError.at(
        where,
        found=f"a file that cannot be read ({error})",
        allowed="the checkpoint is readable",
        remedy="Check the disk or the server and its permissions, then resume; nothing was changed.",
    )


def refused(where: object, error: OSError) -> CheckpointError:
    """Return the error of a place that does not take a checkpoint."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CheckpointError.at(
        where,
        found="a full disk" if is_full else f"a disk that refuses the data ({error})",
        allowed="a checkpoint counts only when every byte is on disk; the ones before it are untouched",
        remedy="Free space or lower checkpoint.keep_last, then `sisa-scale resume` the run directory.",
    )
