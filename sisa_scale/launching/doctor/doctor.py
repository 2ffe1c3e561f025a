"""`doctor`: everything that can be known to be wrong before a long run, as a list of findings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sisa_scale.config.run import RunConfig
from sisa_scale.launching.doctor import cluster as doctor_cluster
from sisa_scale.launching.doctor import machine as doctor_machine
from sisa_scale.launching.doctor import run as doctor_run
from sisa_scale.launching.doctor.finding import Check, Finding, run_check
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import launcher_for


def examine(
    config: RunConfig | None, profile: Profile, ray_address: str | None, report: Callable[[str], None]
) -> list[Finding]:
    """Run all checks that apply.

    config: of a recipe, if one is given; ray_address: HOST:PORT of a Ray cluster whose nodes are looked at; report:
    told the name of a check before it begins.
    """
    launcher = launcher_for(profile)
    here = not isinstance(launcher, ClusterLauncher) and ray_address is None
    directory = config.directory if config is not None else Path.cwd()
    num_bytes = doctor_run.checkpoint_bytes(config) if config is not None else None
    wants_cuda = here and config is not None and config.resources.device == "cuda"
    checks: list[tuple[str, Check]] = [
        ("versions", doctor_machine.check_versions),
        ("gpus", partial(doctor_machine.check_gpus, wants_cuda)),
        ("all-reduce", doctor_machine.check_all_reduce),
        ("ports", doctor_machine.check_ports),
    ]
    if launcher.shares_files:
        checks.append(("disk", partial(doctor_machine.check_disk, directory, num_bytes)))
    if isinstance(launcher, ClusterLauncher):
        checks.append((profile.target, partial(launcher.check, profile)))
    if ray_address is not None:
        checks.append(("ray", partial(doctor_cluster.check_ray_nodes, ray_address)))
    if config is not None:
        if launcher.shares_files:
            checks += [("shards", partial(doctor_run.check_shards, config))]
            checks += [("tokenizer", partial(doctor_run.check_tokenizer, config))]
        checks.append(("memory", partial(doctor_run.check_memory, config, here)))
        checks.append(("wandb", partial(doctor_run.check_wandb, config)))
    findings: list[Finding] = []
    for name, check in checks:
        report(name)
        findings += run_check(name, check)
    return findings + _skipped(config, profile, ray_address)


def _skipped(config: RunConfig | None, profile: Profile, ray_address: str | None) -> list[Finding]:
    skipped = []
    if config is None:
        skipped.append(Finding("recipe", "skipped", "data, memory, wandb", "Name a recipe to check them."))
    if not launcher_for(profile).shares_files:
        remedy = "Pods see them, this machine does not: run doctor in a pod."
        skipped.append(Finding("volume", "skipped", "disk and shards", remedy))
    if ray_address is None:
        remedy = "Give --ray HOST:PORT of a running Ray cluster."
        if profile.allocation is None:
            skipped.append(Finding("clock", "skipped", "no other node is known", remedy))
        else:
            skipped.append(Finding("nodes", "skipped", "clock skew and bandwidth between nodes", remedy))
    return skipped
