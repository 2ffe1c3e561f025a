"""What every cluster profile has. A profile is data of a site; each launcher has a class of its own.

Secrets have no place in it: they come from the environment of `submit`, or from a Kubernetes secret by name.
"""

from dataclasses import dataclass
from typing import ClassVar

from sisa_scale.config.fields import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How runs are started at one place.

    paths: settings in which `~` and variables stand for what they are where the profile is read; node_paths: those of a
    folder of each node, in which only `~`, $HOME, $USER and $LOGNAME do.
    """

    paths: ClassVar[tuple[str, ...]] = ()
    node_paths: ClassVar[tuple[str, ...]] = ()

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
