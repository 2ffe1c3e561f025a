"""Checks of this machine: software, GPUs, communication between processes, disk."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from sisa_scale.launching.doctor.finding import Finding

_PROBE_SECONDS = 60
_WRITE_BYTES = 64 << 20
_SLOW_WRITE = 50e6  # bytes a second; a checkpoint of a 1B model is 12 GB
_CHUNK = os.urandom(1 << 20)


def check_versions() -> Iterator[Finding]:
    """Compare the installed packages with what the project asks for."""
    wrong, named = [], []
    for text in metadata.requires("sisa-scale") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
        if requirement.name in ("torch", "deepspeed", "ray"):
            named.append(f"{requirement.name} {version}")
    found = f"Python {sys.version.split()[0]}, {', '.join(named)}"
    if wrong:
        yield Finding("versions", "failure", "; ".join(wrong), "Install the project again: pip install sisa-scale")
    else:
        yield Finding("versions", "ok", found)


def check_gpus(wants_cuda: bool) -> Iterator[Finding]:
    """Look at GPUs, driver and NCCL; wants_cuda: the run asks for GPUs of this machine."""
    import torch

    num = torch.cuda.device_count()
    if not num:
        driver = shutil.which("nvidia-smi") is not None
        if driver or wants_cuda:
            found = "a driver, but no GPU that torch can use" if driver else "no GPU"
            remedy = f"torch is {torch.__version__}: install a CUDA build that this driver supports, or set device=cpu."
            yield Finding("gpus", "failure" if wants_cuda else "warning", found, remedy)
        else:
            yield Finding("gpus", "ok", "none; runs train on CPUs")
        return
    names = sorted({torch.cuda.get_device_name(index) for index in range(num)})
    driver_version = _driver_version()
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    found = f"{num} x {', '.join(names)}, driver {driver_version}, CUDA {torch.version.cuda}, NCCL {nccl}"
    if len(names) > 1:
        yield Finding("gpus", "warning", found, "Every step waits for the slowest kind: use one kind.")
    else:
        yield Finding(
            "gpus", "ok" if nccl != "none" else "failure", found, "" if nccl != "none" else "torch lacks NCCL."
        )


def check_all_reduce() -> Iterator[Finding]:
    """Measure an all-reduce between processes of this machine: NCCL over its GPUs, or gloo over two CPU processes."""
    import torch

    num = torch.cuda.device_count()
    backend, num = ("nccl", num) if num > 1 else ("gloo", 2)
    with tempfile.TemporaryDirectory(prefix="sisa-probe-") as folder:
        arguments = [
            sys.executable,
            "-m",
            "sisa_scale.launching.doctor.all_reduce_probe",
            backend,
            f"{folder}/rendezvous",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [*arguments, str(rank), str(num)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(num)
        ]
        try:
            outputs = [process.communicate(timeout=_PROBE_SECONDS) for process in processes]
        except subprocess.TimeoutExpired:
            remedy = "Processes here cannot talk: look at GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME and the firewall."
            yield Finding("all-reduce", "failure", f"no end within {_PROBE_SECONDS} s", remedy)
            return
        finally:
            for process in processes:
                process.kill()
                process.wait()
    errors = [error for process, (_, error) in zip(processes, outputs, strict=True) if process.returncode]
    if errors:
        reason = (errors[0].strip().splitlines() or ["no word"])[-1]
        yield Finding("all-reduce", "failure", reason, f"{backend} does not work between processes of this machine.")
        return
    rate = float(outputs[0][0].split()[-1])
    yield Finding(
        "all-reduce", "ok", f"{rate / 1e9:.2f} GB/s bus bandwidth, {backend}, {num} processes of this machine"
    )


def check_disk(directory: Path, checkpoint_bytes: int | None) -> Iterator[Finding]:
    """Write a file where the run will write; checkpoint_bytes: of one checkpoint, if a recipe is known."""
    parent = directory.absolute()
    while not parent.is_dir():
        parent = parent.parent
    started = time.perf_counter()
    with tempfile.NamedTemporaryFile(dir=parent, prefix=".sisa-probe-") as file:
        for _ in range(_WRITE_BYTES // len(_CHUNK)):
            file.write(_CHUNK)
        file.flush()
        os.fsync(file.fileno())
    rate = _WRITE_BYTES / (time.perf_counter() - started)
    free = shutil.disk_usage(parent).free
    found = f"{rate / 1e6:,.0f} MB/s with fsync, {free / 1e9:,.1f} GB free in {parent}"
    if checkpoint_bytes is not None:
        found += f"; a checkpoint is {checkpoint_bytes / 1e9:.3g} GB"
        if free < 2 * checkpoint_bytes:
            yield Finding("disk", "failure", found, "Two checkpoints must fit: make room, or set run_dir elsewhere.")
            return
    if rate < _SLOW_WRITE:
        yield Finding("disk", "warning", found, "Checkpoints will be slow: set run_dir on faster storage.")
    else:
        yield Finding("disk", "ok", found)


def check_ports() -> Iterator[Finding]:
    """Open a port on this machine's own address and reach it, as workers do."""
    address = socket.gethostbyname(socket.gethostname())
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection((address, port), timeout=5).close()
    remedy = (
        "" if not address.startswith("127.") else "Other nodes cannot reach that: mend /etc/hosts for several nodes."
    )
    yield Finding("ports", "ok", f"{socket.gethostname()} is {address}, and a port there is reachable", remedy)


def _driver_version() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
