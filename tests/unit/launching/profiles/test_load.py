from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.load import load_profile, shipped_profiles
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.registry import LAUNCHERS


@pytest.mark.parametrize("target", LAUNCHERS)
def test_every_shipped_profile_loads(target: str) -> None:
    names = shipped_profiles(target)
    assert names
    for name in names:
        profile = load_profile(target, name)
        assert profile.description
        assert type(profile) is LAUNCHERS[target].profile


def test_own_file_extends_a_shipped_one_and_settings_go_before_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: gpu\npartition: a100\nnodes: 4\n")
    profile = load_profile("slurm", str(tmp_path / "mine.yaml"), ["nodes=3"])
    assert isinstance(profile, SlurmProfile)
    assert (profile.nodes, profile.partition, profile.gpus_per_node) == (3, "a100", 8)
    assert "resources.workers=24" in profile.resource_overrides
    assert profile.allocation == (3, 8)


@pytest.mark.parametrize(
    ("target", "name", "settings", "expected"),
    [
        ("slurm", "gpu", ["nodse=2"], "Did you mean 'nodes'"),
        ("slurm", "gqu", [], "Did you mean 'gpu'"),
        ("slurm", "gpu", ["nodes=two"], "must be a whole number"),
        ("slurm", "gpu", ["nodes=0"], "at least 1"),
        ("slurm", "gpu", ["time_limit=one day"], "days-hours:minutes:seconds"),
        ("slurm", "gpu", ["partition='a b'"], "without spaces"),
        ("slurm", "gpu", ['partition="a\\n#SBATCH --wrap=x"'], "without spaces"),
        ("slurm", "gpu", ["directives=[--comment=a b]"], "without spaces"),
        ("slurm", "gpu", ["workers_per_node=3"], "a GPU has one worker"),
        ("slurm", "gpu", ["environment=[HF_TOKEN=x]"], "holds no secrets"),
        ("slurm", "gpu", ["environment=['A B=x']"], "NAME=VALUE"),
        ("slurm", None, [], "cpu, gpu"),
        ("kubernetes", "gpu", ["worker.memory=lots"], "a quantity of Kubernetes"),
        ("kubernetes", "gpu", ["queue=null", "queue_priority=high"], "needs a queue"),
        ("kubernetes", "cpu", ["storage.claim=A_B"], "a name of Kubernetes"),
        ("ray", None, ["address=head:6379"], "http://HOST:PORT"),
        ("ray", None, ["target=slurm"], "says target: ray"),
        ("local", None, ["workers=2"], "section of the profile has no 'workers'"),
    ],
)
def test_what_does_not_fit_is_refused(target: str, name: str | None, settings: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_profile(target, name, settings)
