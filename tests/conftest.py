"""A small real data set and a small real recipe, for every test that trains."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sisa_scale.data.build.embedded import build_embedded

RECIPE = """
name: tiny
model: {{kind: sisa, num_layers: 2, d_model: 32, num_heads: 2, d_ff: 80, vocab_size: 4096, max_length_tokens: 64,
  sisa: {{d_s: 16}}}}
data: {{path: {data}, sequence_tokens: 64, global_batch_tokens: 512}}
optimizer: {{learning_rate: 3e-3}}
schedule: {{kind: wsd, total: 12 steps, warmup: 4 steps, decay: 3 steps}}
execution: {{micro_batch_sequences: 2, activation_checkpointing: full}}
resources: {{workers: 2, device: cpu}}
checkpoint: {{every_steps: 5, keep_last: 0}}
evaluation: {{tasks: [loss], num_heldout_sequences: 8, every_steps: 0, monitor_every_steps: 5, needle_lengths: [64]}}
wandb: {{mode: disabled}}
"""


# Many processes share the machine: one thread each is the fastest, and no result depends on how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# `transformers` reads this once, when it is imported: code of loaded directories is copied there, not to the user's.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="remote-code-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text that comes with the package, as shards."""
    directory = tmp_path_factory.mktemp("data") / "sample"
    build_embedded(directory)
    return directory


@pytest.fixture
def recipe(tmp_path: Path, dataset: Path) -> Path:
    """A SISA model of 160 thousand parameters, twelve steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(data=dataset))
    return path


@pytest.fixture(scope="session")
def write_recipe(dataset: Path) -> Callable[[Path], Path]:
    """Write that recipe into a directory."""

    def write(directory: Path) -> Path:
        path = directory / "tiny.yaml"
        path.write_text(RECIPE.format(data=dataset))
        return path

    return write


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on this machine behind the S3 protocol; every S3 client is told so by its environment."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
    server.stop()
