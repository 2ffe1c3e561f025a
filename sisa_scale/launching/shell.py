"""Calling a cluster's own commands (sbatch, kubectl) with errors a person can act on."""

import os
import subprocess
from collections.abc import Sequence

from sisa_scale.errors import ConfigError

_SECONDS = 60.0
# A command that is typed within a job must not hand that job's settings on: they go before those of a script.
_OF_A_JOB = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_")
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS")
_MISSING = {
    "kubectl": "Install kubectl and point it to the cluster (kubectl config get-contexts).",
}


def call(command: Sequence[str], *, text: str | None = None, where: str = "", remedy: str = "") -> str:
    """Run a command and return what it printed; `text` is its standard input.

    Raises ConfigError when the command is not here, does not answer within a minute, or fails (with its own words).
    """
    tool = command[0]
    default = _MISSING.get(tool, "Run this on a login node of the cluster, with Slurm's commands on PATH.")
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={k: v for k, v in os.environ.items() if k in _OF_THE_CLUSTER or not k.startswith(_OF_A_JOB)},
        )
    except FileNotFoundError:
        raise ConfigError.at(tool, found="no such command here", allowed=f"{tool} on PATH", remedy=default) from None
    except subprocess.TimeoutExpired:
        raise ConfigError.at(
            tool, found=f"no answer within {_SECONDS:.0f} s", allowed="a cluster that answers", remedy=default
        ) from None
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ConfigError.at(
            where or " ".join(command[:2]),
            found=reason,
            allowed=f"{tool} accepts it",
            remedy=remedy or "Correct what it names.",
        )
    return done.stdout
