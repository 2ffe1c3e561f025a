"""`sisa-scale evaluate RUN_OR_CHECKPOINT`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sisa_scale.cli.common.console import announce, render
from sisa_scale.cli.common.progress import item_progress
from sisa_scale.cli.common.weights_option import weights_option
from sisa_scale.config.tasks import CHOICE_TASKS, check_tasks, task_names
from sisa_scale.errors import ConfigError
from sisa_scale.runs.layout import holds_run

if TYPE_CHECKING:
    from sisa_scale.conversion.moving_average import Which


@click.command("evaluate")
@click.argument("run_or_checkpoint")
@click.option(
    "--tasks",
    help=f"Comma-separated: {','.join(task_names())}. By default the run's.",
)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data set, if it has moved.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, dir_okay=False),
    help="tokenizer.json, where the data set is not at hand.",
)
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
@weights_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--record", is_flag=True, help="Note the scores in the run directory: its report then shows them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run_or_checkpoint: str,
    tasks: str | None,
    data: Path | None,
    tokenizer: Path | None,
    lambada: str | None,
    questions: Path | None,
    overrides: tuple[str, ...],
    which: "Which",
    device: str,
    record: bool,
    as_json: bool,
) -> None:
    """Score the newest checkpoint of a run, or a checkpoint of any form, with standard errors.

    With --tokenizer the data set need not be there: the multiple-choice tasks, and lambada with --lambada, need none.
    Without --lambada (and without evaluation.lambada_path in the recipe) the lambada task scores a cloze set made from
    the held-out text, and says so. --lambada scores all of its file, whatever evaluation.num_cloze_items and whether or
    not the run's tasks hold lambada.

    Beyond the trained length: --tasks needle-curve,needle-multikey,variable-tracking
    --set model.max_length_tokens=8192 --set model.rope.scaling=yarn. Their lengths are evaluation.context_multiples.
    """
    from sisa_scale.cli.common.evaluate_paper import print_beside_paper
    from sisa_scale.conversion.trained import open_trained
    from sisa_scale.evaluation.fetch import lambada_file
    from sisa_scale.evaluation.loading import model_scorer
    from sisa_scale.evaluation.resources import load_resources
    from sisa_scale.evaluation.suite import run_suite
    from sisa_scale.models.device import torch_device
    from sisa_scale.runs.logs.evaluations import ScoreRow, append_later_scores
    from sisa_scale.runs.provenance import now

    run_dir = _recorded_in(run_or_checkpoint) if record else None
    if tasks is not None:
        check_tasks(tasks.split(","))
    trained = open_trained(run_or_checkpoint, overrides, which)
    config = trained.config
    chosen = tuple(tasks.split(",")) if tasks else config.evaluation.tasks
    if lambada and not tasks and "lambada" not in chosen:
        chosen = (*chosen, "lambada")
    _check_used("--lambada", lambada, chosen, ("lambada",))
    _check_used("--questions", questions, chosen, CHOICE_TASKS)
    evaluation = dataclasses.replace(
        config.evaluation,
        tasks=chosen,
        lambada_path=str(lambada_file(lambada)) if lambada else config.evaluation.lambada_path,
        questions_directory=str(questions) if questions else config.evaluation.questions_directory,
    )
    data_section = config.data.at(str(data)) if data else config.data
    config = dataclasses.replace(config, evaluation=evaluation, data=data_section)
    trained = dataclasses.replace(trained, config=config)

    place = torch_device(device)
    resources = load_resources(config, tokenizer, all_passages=lambada is not None)
    model = trained.model(place)
    if not as_json:
        announce(f"scoring {trained.origin} (step {trained.step}, {trained.tokens:,} tokens) on {place}")
    with item_progress("scored") as advance:
        scores = run_suite(
            config.evaluation.tasks,
            model_scorer(model, config, place),
            resources,
            batch_size=config.evaluation.batch_sequences,
            by_length=True,
            advance=advance,
        )
    rows = [score.to_json() for score in scores]
    if run_dir is not None:
        measured = [ScoreRow(step=trained.step, tokens=trained.tokens, **row) for row in rows]
        append_later_scores(run_dir, measured, now(), overrides)
    render(rows, as_json=as_json, value={"checkpoint": trained.origin, "step": trained.step, "scores": rows})
    if not as_json:
        print_beside_paper(config.name, config.model, scores)


def _recorded_in(run_or_checkpoint: str) -> Path:
    """Return the run directory that a checkpoint lies in; raises ConfigError where there is none."""
    path = Path(run_or_checkpoint)
    for place in (path, *path.absolute().parents[:2]):
        if holds_run(place):
            return place
    raise ConfigError.at(
        "--record",
        found=run_or_checkpoint,
        allowed="scores are noted in the run directory of a run or of its checkpoint",
        remedy="Give a run directory, or leave out --record and keep what --json prints.",
    )


def _check_used(option: str, value: object, tasks: tuple[str, ...], readers: tuple[str, ...]) -> None:
    if value and not set(readers) & set(tasks):
        raise ConfigError.at(
            option,
            found=f"the tasks {', '.join(tasks)}, none of which reads {value}",
            allowed=f"it is for {', '.join(readers)}",
            remedy=f"Add the task, for example with --tasks {','.join((*tasks, readers[0]))}, or leave {option} out.",
        )
