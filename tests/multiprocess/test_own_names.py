"""Two machines of namespaces, joined by a cable, whose own names mean 127.0.1.1 as Debian's installer leaves them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

TEMPLATE = Path(__file__).parents[2] / "cluster" / "slurm" / "job.sbatch.j2"
ADDRESSES = {"first": "10.78.0.1", "second": "10.78.0.2"}
PROGRAM = """
import os, torch
from sisa_scale.training.engine.communicator import connect, leave
total = connect("cpu").sum(torch.ones(1)).item()
print(os.environ.get("GLOO_SOCKET_IFNAME"), total, flush=True)
leave()
"""

SHELL_PATH = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **SHELL_PATH})


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """What a command begins with to run on each machine."""
    spaces = ["--net", "--uts", "--mount"]
    if os.geteuid() != 0 or subprocess.run(["unshare", *spaces, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root for namespaces")
    if any(shutil.which(name, path=SHELL_PATH["PATH"]) is None for name in ("ip", "nsenter")):
        pytest.skip("needs iproute2 and util-linux")
    folder = tmp_path_factory.mktemp("machines")
    processes, entered = [], {}
    try:
        for name in ADDRESSES:
            process = subprocess.Popen(
                ["unshare", *spaces, "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
            )
            processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()  # the namespaces are there
            entered[name] = ["nsenter", "--target", str(process.pid), *spaces]
        ends = [f"sisa{process.pid}" for process in processes]
        call("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for (name, address), process, end in zip(ADDRESSES.items(), processes, ends, strict=True):
            others = "".join(f"{there} {other}\n" for other, there in ADDRESSES.items() if other != name)
            (folder / name).write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{others}")
            call("ip", "link", "set", end, "netns", str(process.pid))
            setup = f"hostname {name} && mount --bind {folder / name} /etc/hosts && ip link set lo up &&"
            setup += f" ip link set {end} name eth0 && ip addr add {address}/24 dev eth0 && ip link set eth0 up"
            call(*entered[name], "sh", "-c", setup)
        yield entered
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_script_of_a_job_finds_the_address_that_others_reach(machines: dict[str, list[str]]) -> None:
    text = TEMPLATE.read_text()
    begin = text.index("address_of_this_node() {")
    function = jinja2.Template(text[begin : text.index("\n}\n", begin) + 3]).render(profile={"network_interface": None})
    for name, other in (("first", "second"), ("second", "first")):
        for peer, expected in ((other, f"{ADDRESSES[name]} eth0"), ("", ADDRESSES[name])):
            command = [*machines[name], "bash", "-c", f"{function}\naddress_of_this_node {peer or repr('')}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stdout.strip() == expected


def test_gloo_uses_the_interface_that_others_reach(machines: dict[str, list[str]]) -> None:
    environment = os.environ | {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": ADDRESSES["first"], "MASTER_PORT": "29511"}
    environment.pop("GLOO_SOCKET_IFNAME", None)
    workers = [
        subprocess.Popen(
            [*machines[name], sys.executable, "-c", PROGRAM],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, name in enumerate(ADDRESSES)
    ]
    try:
        for worker in workers:
            said = worker.communicate(timeout=240)[0]
            assert said.splitlines()[-1:] == ["eth0 2.0"], said
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
