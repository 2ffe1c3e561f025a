"""The README of a converted model: what it is, how it was trained, on what, and what it scores."""

from pathlib import Path
from typing import Any

import yaml

import sisa_scale
from sisa_scale.config.run import to_plain
from sisa_scale.conversion.weights import Description
from sisa_scale.data.manifest import Manifest, read_manifest
from sisa_scale.errors import SisaScaleError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.runs.files import Run, read_run


def model_card(description: Description, run_dir: Path | None) -> str:
    """Return Markdown. run_dir: the run that the weights come from, if it is at hand, for provenance and scores."""
    run = description.run
    kept = read_run(run_dir) if run_dir is not None else None
    counts = count_parameters(run.model)
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- sisa-scale\n"
        f"- {run.model.kind}\n---\n",
        f"# {run.name}\n",
        f"{run.description}\n" if run.description else "",
        f"A {run.model.kind} language model of {counts.total:,} parameters ({counts.nonembedding:,} without the "
        f"embedding), after {description.step:,} steps and {description.tokens:,} tokens.\n",
        "## Use\n",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'path = "."\n'
        "tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)\n"
        "model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)\n"
        'inputs = tokenizer(["The old man", "In the morning"], return_tensors="pt", padding=True)\n'
        "print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=40)))\n```\n",
        f"The model's code lies beside the weights. Weights are fp32; training computed in {run.execution.precision}"
        + (" under autocast, which `torch.autocast` around `generate` repeats.\n" if _is_half(run) else ".\n"),
        "## Training\n",
        _table(_training(description, kept)),
        "<details><summary>Recipe</summary>\n\n```yaml\n"
        + yaml.safe_dump(to_plain(run), sort_keys=False, allow_unicode=True)
        + "```\n</details>\n",
        "## Data\n",
        _data(description),
        "## Scores\n",
        _scores(description, kept),
    ]
    return "\n".join(part for part in parts if part)


def _is_half(run: Any) -> bool:
    return bool(run.execution.precision == "bf16")


def _training(description: Description, kept: Run | None) -> list[tuple[str, object]]:
    run = description.run
    rows: list[tuple[str, object]] = [
        ("written by", f"sisa-scale {sisa_scale.__version__}"),
        ("seed", run.seed),
        ("tokens per step", ", then ".join(f"{tokens:,}" for tokens in run.data.batches.stage_tokens)),
        ("sequence length", f"{run.data.sequence_tokens:,} tokens"),
        ("longest sequence", f"{run.model.max_length_tokens:,} tokens"),
        ("learning rate", f"{run.optimizer.learning_rate:g}, {run.schedule.kind}, {run.schedule.total}"),
        ("data fingerprint", description.data_fingerprint),
    ]
    found = kept.provenance if kept is not None else {}
    if not found:
        return rows
    git = found.get("git") or {}
    rows += [
        ("begun", found.get("time")),
        ("config SHA-256", found.get("config_sha256")),
        ("trained by", f"sisa-scale {found.get('sisa_scale')}, Python {found.get('python')}"),
        ("source", f"{git.get('commit')}{', changed' if git.get('is_dirty') else ''}" if git else "not recorded"),
        ("packages", ", ".join(f"{k} {v}" for k, v in (found.get("packages") or {}).items() if v)),
        ("hardware", ", ".join((found.get("hardware") or {}).get("gpus") or ["CPU"])),
    ]
    return rows


def _data(description: Description) -> str:
    rows: list[tuple[str, object]] = []
    for name, source in description.run.data.sources.items():
        try:
            manifest: Manifest = read_manifest(source.path)
        except (SisaScaleError, OSError):
            rows.append((name, "not at hand when the model was converted"))
            continue
        rows.append((name, _sentence(manifest)))
    return _table(rows)


def _sentence(manifest: Manifest) -> str:
    train = manifest.splits["train"]
    return (
        f"{train.num_tokens:,} tokens of {train.num_documents:,} documents ({train.num_bytes:,} bytes of text), "
        f"{len(manifest.sources)} source files, {manifest.heldout_fraction:.2%} held out, tokenizer "
        f"{manifest.tokenizer.name} of {manifest.tokenizer.vocab_size:,} ids, fingerprint {manifest.fingerprint}"
    )


def _scores(description: Description, run: Run | None) -> str:
    rows = [row for row in run.scores if row.step == description.step and row.value is not None] if run else []
    if not rows:
        return "None were recorded at this step; `sisa-scale evaluate` measures them.\n"
    head = "| task | data | metric | value | standard error | items |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {row.task} | {row.variant} | {row.metric} | {row.value:.4g} {row.unit} | {_error(row.standard_error)} | "
        f"{row.num_items:,} |\n"
        for row in rows
    )


def _error(value: float | None) -> str:
    return "not given" if value is None else f"{value:.2g}"


def _table(rows: list[tuple[str, object]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
