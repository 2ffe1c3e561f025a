from collections.abc import Iterator

import pytest
import slurm_cluster
from slurm_cluster import SlurmCluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real Slurm with two simulated nodes; installed where that is possible, skipped where it is not."""
    if slurm_cluster.missing():
        slurm_cluster.install()
    reason = slurm_cluster.missing()
    if reason:
        pytest.skip(f"no Slurm here: {reason}")
    with SlurmCluster(num_nodes=2, cpus=2) as cluster:
        yield cluster
