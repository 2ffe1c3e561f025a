"""What KubeRay's operator refuses and the schema of its resources does not say, as one list of problems.

After the operator's own checks (KubeRay 1.7): names, retries, suspension, deadlines, replicas.
"""

import re
from collections.abc import Iterator
from typing import Any

from sisa_scale.errors import Problem

MAX_NAME_CHARACTERS = 47
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_MAX_CONFIG_MAP_BYTES = 1 << 20


def ray_job_problems(job: dict[str, Any]) -> Iterator[Problem]:
    """Yield what the operator would refuse about a RayJob."""
    name, spec = job["metadata"]["name"], job["spec"]
    where = f"RayJob {name}"
    if len(name) > MAX_NAME_CHARACTERS or not _DNS_1035.fullmatch(name):
        rule = f"at most {MAX_NAME_CHARACTERS} small letters, digits and -, a letter first, no - last"
        yield Problem(where, f"the name {name!r}", rule, "Choose another name=NAME.")
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield Problem(where, f"submissionMode {mode}", f"one of {', '.join(_MODES)}", "Choose one.")
    has_cluster, has_selector = "rayClusterSpec" in spec, "clusterSelector" in spec
    if has_cluster == has_selector:
        found = "both" if has_cluster else "neither"
        yield Problem(where, f"{found} of rayClusterSpec and clusterSelector", "one of the two", "Keep one.")
    if spec.get("suspend") and (not spec.get("shutdownAfterJobFinishes") or has_selector):
        rule = "suspend needs shutdownAfterJobFinishes and a cluster of its own"
        yield Problem(where, "suspend", rule, "Set shutdownAfterJobFinishes: true.")
    if spec.get("backoffLimit", 0) < 0 or (spec.get("backoffLimit") and (has_selector or mode == "InteractiveMode")):
        rule = "at least 0, and 0 with clusterSelector or InteractiveMode"
        yield Problem(where, f"backoffLimit {spec['backoffLimit']}", rule, "Lower it.")
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0 or (ttl and not spec.get("shutdownAfterJobFinishes")):
        rule = "at least 0, and only with shutdownAfterJobFinishes"
        yield Problem(where, f"ttlSecondsAfterFinished {ttl}", rule, "Correct it.")
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield Problem(where, f"activeDeadlineSeconds {spec['activeDeadlineSeconds']}", "above 0", "Raise it.")
    if has_cluster:
        yield from _cluster_problems(where, spec["rayClusterSpec"])


def config_map_problems(config_map: dict[str, Any]) -> Iterator[Problem]:
    """Yield what an API server would refuse about the ConfigMap."""
    num_bytes = sum(len(text.encode()) for text in config_map["data"].values())
    if num_bytes > _MAX_CONFIG_MAP_BYTES:
        name = f"ConfigMap {config_map['metadata']['name']}"
        yield Problem(name, f"{num_bytes} bytes", f"at most {_MAX_CONFIG_MAP_BYTES}", "Shorten the recipe.")


def _cluster_problems(where: str, cluster: dict[str, Any]) -> Iterator[Problem]:
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield Problem(where, "enableK8sTokenAuth", "a RayJob cannot use it", "Use mode: token.")
    groups = cluster.get("workerGroupSpecs", [])
    names = [group["groupName"] for group in groups]
    if len(set(names)) < len(names):
        yield Problem(where, f"worker groups {', '.join(names)}", "names that differ", "Rename one.")
    for group in groups:
        low, high = group.get("minReplicas"), group.get("maxReplicas")
        if low is None or high is None or not 0 <= low <= group.get("replicas", low) <= high:
            found = f"replicas {low} <= {group.get('replicas')} <= {high} of {group['groupName']}"
            yield Problem(where, found, "minReplicas <= replicas <= maxReplicas, all given", "Correct them.")
    for group in (cluster["headGroupSpec"], *groups):
        if not group["template"]["spec"].get("containers"):
            yield Problem(where, "a pod without containers", "at least one container", "Add one.")
