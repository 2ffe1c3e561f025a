"""What every cluster profile has. A profile is data of a site; each launcher has a class of its own.

Secrets have no place in it: they come from the environment of `submit`, or from a Kubernetes secret by name.
"""

from dataclasses import dataclass

from sisa_scale.config.fields import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How runs are started at one place."""

    target: str = setting("where runs go")
    description: str = setting("what the profile is for", default="")

    @property
    def resource_overrides(self) -> tuple[str, ...]:
        """What the profile says of a recipe's `resources`; as it stands here, nothing."""
        return ()

    @property
    def allocation(self) -> tuple[int, int] | None:
        """Nodes and the workers of each; None where the profile does not say."""
        return None
