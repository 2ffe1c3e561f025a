"""Manifests for KubeRay: against its schema, against rendered examples, and what is refused before anything is applied.

UPDATE_GOLDEN=1 pytest tests/cluster/test_kubernetes.py      writes the examples anew
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes.launcher import KubernetesJob
from sisa_scale.launching.kubernetes.rules import ray_job_problems
from sisa_scale.launching.profiles.load import load_profile, shipped_profiles
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submit import plan

GOLDEN = Path(__file__).parent.parent / "golden"
OVERRIDES = ("data.path=data/sample", "global_batch_tokens=16384", "micro_batch_sequences=1")
HOSTILE = 'it\'s $(touch /tmp/no) "quoted"\nand `more` ${HOME} 50%'


def as_json_schema(schema: Any, strict: bool = True) -> Any:
    """Turn a structural schema of Kubernetes into a JSON Schema in which unknown fields are errors."""
    if not isinstance(schema, dict):
        return schema
    out = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": schema.get("pattern", "")}]}
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    if "properties" in out:
        out["properties"] = {name: as_json_schema(inner, strict) for name, inner in out["properties"].items()}
        if strict and "additionalProperties" not in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in out:
            out[key] = as_json_schema(out[key], strict)
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:
            out[key] = [as_json_schema(inner, False) for inner in out[key]]
    return out


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = as_json_schema(json.loads((GOLDEN / "kuberay" / "rayjob_v1.schema.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def render(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ada")

    def render(profile: str, *overrides: str, settings: tuple[str, ...] = ()) -> str:
        planned = plan(str(recipe), (*OVERRIDES, *overrides), load_profile("kubernetes", profile, settings), Reporter())
        assert isinstance(planned, KubernetesJob)
        return planned.manifest()

    return render


@pytest.mark.parametrize("profile", sorted(shipped_profiles("kubernetes")))
def test_shipped_profiles_render_what_the_schema_allows_and_the_examples_show(
    profile: str, render: Callable[..., str], validator: jsonschema.Draft202012Validator
) -> None:
    manifest = render(profile)
    config_map, ray_job = yaml.safe_load_all(manifest)
    validator.validate(ray_job)
    assert list(config_map["data"]) == ["recipe.yaml", "start.sh"]
    config_map["data"]["recipe.yaml"] = "...\n"  # changes with every new setting of a recipe
    shown = yaml.safe_dump_all([config_map, ray_job], sort_keys=False, width=110)
    path = GOLDEN / "cluster" / f"kubernetes-{profile}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown)
    assert shown == path.read_text()


def test_every_value_survives_as_it_was_written(
    render: Callable[..., str], validator: jsonschema.Draft202012Validator
) -> None:
    description = f"description={json.dumps(HOSTILE)}"
    config_map, ray_job = yaml.safe_load_all(
        render("cpu", description, "run_dir=runs/it's $(x)", settings=(f"environment={json.dumps(['A=' + HOSTILE])}",))
    )
    validator.validate(ray_job)
    assert yaml.safe_load(config_map["data"]["recipe.yaml"])["description"] == HOSTILE
    container = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["A"].replace("$$(", "$(") == HOSTILE
    assert values["SISA_SCALE_RUN_DIR"] == "/mnt/sisa-scale/runs/it's $$(x)"  # $$( is Kubernetes' $(


def test_unknown_fields_do_not_pass_the_schema(
    render: Callable[..., str], validator: jsonschema.Draft202012Validator
) -> None:
    _, ray_job = yaml.safe_load_all(render("gpu"))
    ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        validator.validate(ray_job)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda job: job["metadata"].update(name="x" * 48), "at most 47"),
        (lambda job: job["metadata"].update(name="1st"), "a letter first"),
        (lambda job: job["spec"].update(suspend=True, shutdownAfterJobFinishes=False), "suspend needs"),
        (lambda job: job["spec"].update(backoffLimit=-1), "at least 0"),
        (lambda job: job["spec"].update(activeDeadlineSeconds=0), "above 0"),
        (lambda job: job["spec"].update(submissionMode="Local"), "one of K8sJobMode"),
        (lambda job: job["spec"].update(clusterSelector={"a": "b"}), "one of the two"),
        (lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplicas=9), "minReplicas <="),
        (lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(enableK8sTokenAuth=True), "cannot use it"),
    ],
)
def test_what_the_operator_would_refuse_is_a_problem(
    change: Callable[[dict[str, Any]], None], expected: str, render: Callable[..., str]
) -> None:
    _, ray_job = yaml.safe_load_all(render("gpu"))
    assert not list(ray_job_problems(ray_job))
    change(ray_job)
    assert expected in " ".join(map(str, ray_job_problems(ray_job)))


def test_paths_that_pods_do_not_see_are_refused(render: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"storage\.mount_path"):
        render("cpu", "data.path=/home/me/data")
    with pytest.raises(ConfigError, match="run_dir"):
        render("cpu", "run_dir=../elsewhere")


def test_more_workers_than_pods_hold_are_refused(render: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="2 nodes x 1 workers_per_node"):
        render("cpu", "workers=4")


def test_no_kubectl_and_no_cluster_are_one_clear_error(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = plan(str(recipe), OVERRIDES, load_profile("kubernetes", "cpu"), Reporter())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="kubectl: found no such command here"):
        job.submit(Reporter())
    assert not (tmp_path / "runs").exists()


def test_secrets_have_no_place_in_a_profile() -> None:
    with pytest.raises(ConfigError, match="holds no secrets") as caught:
        load_profile("kubernetes", "cpu", ["environment=[WANDB_API_KEY=abc123]"])
    assert "abc123" not in str(caught.value)
