"""`sisa-scale generate RUN_OR_CHECKPOINT [PROMPT...]`."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sisa_scale.cli.common.console import render
from sisa_scale.cli.common.weights_option import weights_option
from sisa_scale.errors import ConfigError

if TYPE_CHECKING:
    from sisa_scale.conversion.moving_average import Which


@click.command("generate")
@click.argument("run_or_checkpoint")
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option("--max-tokens", default=64, show_default=True, help="Most new tokens of a prompt.")
@click.option("--temperature", default=0.8, show_default=True, help="0 takes the most probable token.")
@click.option("--top-k", default=50, show_default=True, help="Sample from the k most probable tokens; 0 from all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data set, if it has moved.")
@click.option(
    "--tokenizer",
    "tokenizer_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="tokenizer.json, where the data set is not at hand.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the length or model.rope.")
@weights_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run_or_checkpoint: str,
    prompts: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    data: Path | None,
    tokenizer_file: Path | None,
    overrides: tuple[str, ...],
    which: "Which",
    device: str,
    as_json: bool,
) -> None:
    """Continue every PROMPT with the newest checkpoint of a run, or with a checkpoint of any form.

    Without a PROMPT, two beginnings of held-out text are continued.

    Beyond the trained length: --set model.max_length_tokens=8192 --set model.rope.scaling=yarn.
    """
    least = {"--temperature": 0, "--top-k": 0, "--max-tokens": 1}
    for (option, bound), found in zip(least.items(), (temperature, top_k, max_tokens), strict=True):
        if not bound <= found < math.inf:
            raise ConfigError.at(option, found=str(found), allowed=f"at least {bound}", remedy=f"Give {bound} or more.")
    from sisa_scale.conversion.trained import open_trained
    from sisa_scale.data.read.heldout import heldout_prompts
    from sisa_scale.data.read.tokenizer_choice import trained_tokenizer
    from sisa_scale.evaluation.loading import autocast
    from sisa_scale.models.device import torch_device
    from sisa_scale.models.generate import generate

    trained = open_trained(run_or_checkpoint, overrides, which)
    config = trained.config
    if data:
        config = dataclasses.replace(config, data=config.data.at(str(data)))
    tokenizer = trained_tokenizer(config, tokenizer_file)
    prompts = prompts or tuple(heldout_prompts(config.data, tokenizer.decode, 2))
    encoded = tokenizer.encode_batch(list(prompts))
    longest, limit = max(map(len, encoded)), config.model.max_length_tokens
    if min(map(len, encoded)) == 0 or longest + max_tokens > limit:
        raise ConfigError.at(
            "PROMPT",
            found=f"prompts of {min(map(len, encoded))} to {longest} tokens and --max-tokens {max_tokens}",
            allowed=f"at least one token, and together at most model.max_length_tokens {limit}",
            remedy="Change the prompts, lower --max-tokens, or go beyond the trained length: --set "
            "model.max_length_tokens=N with --set model.rope.scaling=none|linear|ntk|yarn (no scaling without RoPE).",
        )
    place = torch_device(device)
    model = trained.model(place)
    with autocast(config, place):
        rows = generate(
            model,
            encoded,
            max_tokens=max_tokens,
            eos_id=tokenizer.eos_id,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )
    texts = [tokenizer.decode(row) for row in rows]
    if as_json:
        render(
            [{"prompt": p, "text": t, "tokens": r} for p, t, r in zip(prompts, texts, rows, strict=True)], as_json=True
        )
        return
    for prompt, text in zip(prompts, texts, strict=True):
        click.echo(click.style(prompt, bold=True) + text)
