from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.load import load_profile, shipped_profiles
from sisa_scale.launching.profiles.slurm import SlurmProfile, limit_seconds
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
        ("slurm", "cpu", ["time_limit='00:02:00'"], "at least 300 s"),
        ("slurm", "cpu", ["time_limit='4'"], "at least 300 s"),
        ("slurm", "cpu", ["network_interface='10.0.0.0/x'"], "an interface or a network"),
        ("slurm", "cpu", ["venv=$NOT_SET_ANYWHERE/venv"], r"found \$NOT_SET_ANYWHERE"),
        ("slurm", "cpu", ["node_scratch=$TMPDIR"], r"found \$TMPDIR"),
        ("slurm", "cpu", ["node_scratch=scratch"], "absolute path"),
        ("slurm", "cpu", ["environment=[MY_SECRETS=x]"], "holds no secrets"),
        ("ray", None, ["venv=~/venv"], "absolute path of the cluster"),
        ("kubernetes", "cpu", ["ray_version='2.51.0'"], "from 2.52 on"),
        ("kubernetes", "cpu", ["worker.shared_memory=18G", "worker.memory=16Gi"], "counts as memory, of which"),
        ("kubernetes", "cpu", ["patch='- a'"], "a mapping of YAML"),
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


def test_paths_mean_what_they_mean_to_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("WORK", "/work space")
    monkeypatch.setenv("TMPDIR", "/tmp/1")
    monkeypatch.chdir(tmp_path)
    settings = ["venv=~/venv", "node_scratch=/scratch/$USER", "node_local_paths=['${WORK}/x', ~/y]"]
    container = ["container={runtime: apptainer, image: $WORK/a.sif, mounts: ['~/data:/data', '$WORK:/w']}"]
    profile = load_profile("slurm", "cpu", [*settings, *container, "environment=[TOKENIZERS_PARALLELISM=false]"])
    assert isinstance(profile, SlurmProfile)
    assert (profile.venv, profile.node_scratch) == ("/home/ada/venv", "/scratch/ada")
    assert profile.node_local_paths == ("/work space/x", "/home/ada/y")
    assert profile.container is not None
    assert profile.container.image == "/work space/a.sif"
    assert profile.container.mounts == ("/home/ada/data:/data", "/work space:/w")
    relative = load_profile("slurm", "cpu", ["venv=.venv"])
    assert isinstance(relative, SlurmProfile)
    assert relative.venv == f"{tmp_path}/.venv"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86400), ("1-02:30", 95400), ("2-00:00:05", 172805)],
)
def test_time_limits_are_those_of_slurm(text: str, seconds: int) -> None:
    assert limit_seconds(text) == seconds
