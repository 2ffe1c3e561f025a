"""The table of launchers. `--to`, profiles, `logs`, `cancel`, studies and `doctor` ask it; nothing else names them."""

from typing import Any, NamedTuple

from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes.launcher import KubernetesLauncher
from sisa_scale.launching.launcher import ClusterLauncher, Launcher
from sisa_scale.launching.local import LocalLauncher
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.local import LocalProfile
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.profiles.ray import RayProfile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.ray import RayLauncher
from sisa_scale.launching.slurm.launcher import SlurmLauncher
from sisa_scale.launching.submission import Submission


class Entry(NamedTuple):
    """A launcher and the class of its profiles."""

    launcher: Launcher[Any]
    profile: type[Profile]


LAUNCHERS: dict[str, Entry] = {
    "local": Entry(LocalLauncher(), LocalProfile),
    "ray": Entry(RayLauncher(), RayProfile),
    "slurm": Entry(SlurmLauncher(), SlurmProfile),
    "kubernetes": Entry(KubernetesLauncher(), KubernetesProfile),
}


def launcher_for(profile: Profile) -> Launcher[Any]:
    """Return the launcher that a profile belongs to."""
    return LAUNCHERS[profile.target].launcher


def launcher_of(submission: Submission) -> ClusterLauncher[Any]:
    """Return the launcher that handed a job over; raises ConfigError when it is not in the table."""
    entry = LAUNCHERS.get(submission.target)
    if entry is None or not isinstance(entry.launcher, ClusterLauncher):
        clusters = [name for name, (launcher, _) in LAUNCHERS.items() if isinstance(launcher, ClusterLauncher)]
        raise ConfigError.at(
            submission.folder,
            found=f"a submission to {submission.target}",
            allowed=f"one to {', '.join(clusters)}",
            remedy="Ask with the program that submitted it: it knows that launcher.",
        )
    return entry.launcher
