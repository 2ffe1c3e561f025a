"""What `doctor` finds: one line for each thing that was looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.errors import SisaScaleError

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing. remedy: what to do about a warning or failure, or why it was skipped."""

    check: str
    status: Status
    found: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """Return what a check finds; an error in it is a finding, too, and keeps no other check from running."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except SisaScaleError as error:
        found += [Finding(name, "failure", f"{p.where}: {p.found}", f"{p.allowed}. {p.remedy}") for p in error.problems]
    except Exception as error:  # a probe that breaks must not hide the others
        found.append(Finding(name, "failure", f"{type(error).__name__}: {error}", "Fix the problem named on the left."))
    return found
