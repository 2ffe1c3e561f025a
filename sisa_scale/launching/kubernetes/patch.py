"""Patches of a profile: what a site needs and no setting names, such as RDMA resources, annotations or sidecars."""

from typing import Any

from sisa_scale.launching.profiles.kubernetes import KubernetesProfile, read_patch


def patched(ray_job: dict[str, Any], profile: KubernetesProfile) -> dict[str, Any]:
    """Return a RayJob with the patches of the profile: of the pods first, then of the whole."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    pods = [
        (cluster["headGroupSpec"], profile.head),
        *((group, profile.worker) for group in cluster["workerGroupSpecs"]),
    ]
    for group, pod in pods:
        group["template"] = merge_patch(group["template"], read_patch(pod.patch))
    whole: dict[str, Any] = merge_patch(ray_job, read_patch(profile.patch))
    return whole


def merge_patch(value: Any, patch: Any) -> Any:
    """Return a value with a JSON merge patch (RFC 7386): null removes, mappings merge, anything else replaces.

    Lists whose items all have names (containers, volumes, variables) merge item by item, as Kubernetes' own patches do.
    """
    if isinstance(patch, dict):
        merged = dict(value) if isinstance(value, dict) else {}
        for key, inner in patch.items():
            if inner is None:
                merged.pop(key, None)
            else:
                merged[key] = merge_patch(merged.get(key), inner)
        return merged
    if _have_names(value) and _have_names(patch):
        named = {item["name"]: item for item in value}
        for item in patch:
            named[item["name"]] = merge_patch(named.get(item["name"]), item)
        return list(named.values())
    return patch


def _have_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, dict) and "name" in i for i in value)
