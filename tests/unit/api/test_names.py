"""The names of the Python API, and that importing them is cheap."""

import inspect
import subprocess
import sys

import pytest

import sisa_scale
from sisa_scale import api

SIGNATURES = {
    "build_model": "(config, *, seed, device)",
    "evaluate": "(trained, tasks)",
    "fit_scaling_law": "(table, *, form, objective, resamples, seed, architecture)",
    "generate": "(trained, prompts, *, max_tokens, temperature, top_k, seed)",
    "load_checkpoint": "(path, *, overrides, data, weights, device)",
    "load_recipe": "(recipe, overrides)",
    "open_run": "(path)",
    "resume": "(run_dir, overrides, *, takes_over, from_step, announce)",
    "status": "(run_dir, *, verify)",
    "submit": "(recipe, overrides, *, to, profile, settings, announce)",
    "train": "(recipe, overrides, *, announce)",
}


def test_the_names_are_these() -> None:
    assert sorted(sisa_scale.__all__) == sorted(api.__all__) == sorted([*SIGNATURES, "TrainedModel"])
    for name in sisa_scale.__all__:
        assert getattr(sisa_scale, name) is getattr(api, name)
        assert getattr(api, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sisa_scale.nothing  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_keep_their_names(name: str) -> None:
    parameters = inspect.signature(getattr(api, name)).parameters.values()
    free = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert f"({', '.join([*free, *(['*'] if named else []), *named])})" == SIGNATURES[name]


def test_importing_loads_nothing_heavy() -> None:
    program = (
        "import sys, sisa_scale, sisa_scale.api\nfrom sisa_scale import load_recipe, generate\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
