"""`sisa-scale evaluate RUN_OR_CHECKPOINT`."""

import dataclasses
from pathlib import Path

import click

from sisa_scale.checkpoint.store import find_checkpoint
from sisa_scale.cli.console import announce, render
from sisa_scale.config.loading.extension import trained_config
from sisa_scale.config.tasks import check_tasks, task_names


@click.command("evaluate")
@click.argument("run_or_checkpoint")
@click.option(
    "--tasks",
    help=f"Comma-separated: {','.join(task_names())}. By default the run's.",
)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data set, if it has moved.")
@click.option("--lambada", help="OpenAI's LAMBADA text as JSON lines, or `openai` to fetch it once.")
@click.option(
    "--questions",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory with hellaswag.jsonl, arc_easy.jsonl, piqa.jsonl, winogrande.jsonl.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change evaluation.*, the length or model.rope.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run_or_checkpoint: str,
    tasks: str | None,
    data: Path | None,
    lambada: str | None,
    questions: Path | None,
    overrides: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Score the newest checkpoint of a run, or one checkpoint, with standard errors.

    Without --lambada (and without evaluation.lambada_path in the recipe) the lambada task scores a cloze set made from
    the held-out text, and says so.

    Beyond the trained length: --set model.max_length_tokens=8192 --set model.rope.scaling=yarn
    --set evaluation.context_tokens=8192 --set evaluation.needle_lengths=[4096,8192].
    """
    from sisa_scale.cli.evaluate_paper import print_beside_paper
    from sisa_scale.evaluation.fetch import lambada_file
    from sisa_scale.evaluation.loading import load_model, model_scorer
    from sisa_scale.evaluation.resources import load_resources
    from sisa_scale.evaluation.suite import run_suite
    from sisa_scale.models.device import torch_device

    if tasks is not None:
        check_tasks(tasks.split(","))
    path, manifest = find_checkpoint(run_or_checkpoint)
    config = trained_config(manifest.config, str(path), overrides)
    evaluation = dataclasses.replace(
        config.evaluation,
        tasks=tuple(tasks.split(",")) if tasks else config.evaluation.tasks,
        lambada_path=str(lambada_file(lambada)) if lambada else config.evaluation.lambada_path,
        questions_directory=str(questions) if questions else config.evaluation.questions_directory,
    )
    data_section = config.data.at(str(data)) if data else config.data
    config = dataclasses.replace(config, evaluation=evaluation, data=data_section)

    place = torch_device(device)
    resources = load_resources(config)
    model = load_model(path, manifest, config, place)
    if not as_json:
        announce(f"scoring {path} (step {manifest.step}, {manifest.tokens:,} tokens) on {place}")
    scores = run_suite(
        config.evaluation.tasks,
        model_scorer(model, config, place),
        resources,
        batch_size=config.evaluation.batch_sequences,
    )
    rows = [score.to_json() for score in scores]
    render(rows, as_json=as_json, value={"checkpoint": str(path), "step": manifest.step, "scores": rows})
    if not as_json:
        print_beside_paper(config.name, config.model, scores)
