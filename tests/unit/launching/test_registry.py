import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.launcher import ArrayLauncher, ClusterLauncher
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import LAUNCHERS, launcher_for, launcher_of
from sisa_scale.launching.submission import Submission


def test_every_profile_finds_its_launcher_and_every_note_of_a_job_too() -> None:
    for name, (launcher, _) in LAUNCHERS.items():
        assert launcher_for(Profile(target=name)) is launcher
        if isinstance(launcher, ClusterLauncher):
            assert launcher_of(Submission(name, "1", "folder")) is launcher


@pytest.mark.parametrize("target", ["local", "pbs"])
def test_a_note_of_another_launcher_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=f"submission to {target}; one to ray, slurm, kubernetes"):
        launcher_of(Submission(target, "1", "folder"))


def test_only_slurm_has_arrays_and_only_pods_share_no_files() -> None:
    assert [name for name, entry in LAUNCHERS.items() if isinstance(entry.launcher, ArrayLauncher)] == ["slurm"]
    assert [name for name, entry in LAUNCHERS.items() if not entry.launcher.shares_files] == ["kubernetes"]
