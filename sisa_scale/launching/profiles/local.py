"""The profile of this machine."""

from dataclasses import dataclass

from sisa_scale.launching.profiles.profile import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalProfile(Profile):
    """This machine; the recipe's own resources hold."""
