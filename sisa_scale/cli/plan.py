"""`sisa-scale plan RECIPE`."""

from dataclasses import asdict

import click

from sisa_scale.cli.common.console import render
from sisa_scale.cli.common.plan_gpu import chosen_gpu, plan_gpu
from sisa_scale.config.data import DataConfig
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.attention_calls import attention_calls
from sisa_scale.planning.communication import Network, NetworkKind
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.twins import load_recipe, match_of


@click.command("plan")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpu", "gpu_name", metavar="NAME", help="GPU type: a100-40, a100-80, h100, h200, and more.")
@click.option("--gpus", type=click.IntRange(1), help="Number of GPUs; instead of resources.workers.")
@click.option("--gpus-per-host", type=click.IntRange(1), default=8, show_default=True, help="GPUs joined by NVLink.")
@click.option(
    "--network",
    type=click.Choice(["infiniband", "ethernet"]),
    default="infiniband",
    show_default=True,
    help="Between hosts: 400 Gb/s for each GPU, or 100 Gb/s for a host.",
)
@click.option("--price", type=click.FloatRange(0), help="Price of a GPU for an hour, in any currency.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    gpu_name: str | None,
    gpus: int | None,
    gpus_per_host: int,
    network: NetworkKind,
    price: float | None,
    as_json: bool,
) -> None:
    """Say what RECIPE needs before it runs: parameters, FLOPs, and the memory of a GPU by term.

    With --gpu also whether it fits, the days, GPU-hours and cost, and the fastest settings that fit. Needs no GPU;
    blocks are traced without data, which takes some seconds.
    """
    gpu = chosen_gpu(gpu_name, price)
    if gpus is not None:
        overrides = (*overrides, f"resources.workers={gpus}")
    config = load_recipe(recipe, overrides).config
    counts, flops = count_parameters(config.model), flops_per_token(config.model, config.data.sequence_tokens)
    tokens = config.total_tokens
    batches = _batches(config.data)
    match, calls = match_of(config), attention_calls(config.model, config.data.sequence_tokens)
    value = {
        "name": config.name,
        "parameters": asdict(counts),
        "params_total": counts.total,
        "params_nonembedding": counts.nonembedding,
        "flops_per_token": {**asdict(flops), "forward": flops.forward, "train": flops.train},
        "sequence_tokens": config.data.sequence_tokens,
        "total_steps": config.total_steps,
        "total_tokens": tokens,
        "global_batches": batches,
        "train_flops": flops.train * tokens,
        "sisa": asdict(calls) if calls else None,
        "twin_of": config.twin_of,
        "match": {**asdict(match), "relative_difference": match.relative_difference} if match else None,
    }
    on_gpu = plan_gpu(config, gpu, Network(gpus_per_host, network), price)
    value |= asdict(on_gpu)
    if as_json:
        render([], as_json=True, value=value)
        return
    groups = [
        {"group": name, "parameters": n, "share": f"{n / counts.total:.1%}"} for name, n in asdict(counts).items()
    ]
    totals = {"all": counts.total, "all but the embedding": counts.nonembedding}
    groups += [{"group": name, "parameters": n, "share": f"{n / counts.total:.1%}"} for name, n in totals.items()]
    render(groups, as_json=False, title=f"{config.name}: parameters")
    terms = {**asdict(flops), "forward": flops.forward, "forward and backward": flops.train}
    rows = [
        {"term": name, "FLOPs per token": f"{n:.4g}", "share": f"{n / flops.forward:.1%}"} for name, n in terms.items()
    ]
    render(rows, as_json=False, title=f"FLOPs at {config.data.sequence_tokens} tokens (attention: causal half)")
    if calls and calls.why:
        click.echo(f"SISA attends in {calls.calls} calls a layer, which is slower than one ({calls.why})")
    run = [{"steps": config.total_steps, "tokens": tokens, "training FLOPs": f"{value['train_flops']:.4g}"}]
    render(run, as_json=False, title="run")
    if config.data.global_batch_ramp:
        render(batches, as_json=False, title="global batch")
    if match:
        difference = f"{match.relative_difference:+.3%}"
        row = {"quantity": match.quantity, "original": match.original, "twin": match.twin, "difference": difference}
        render([row], as_json=False, title=f"twin of {config.twin_of}, d_ff {config.model.d_ff}")
    on_gpu.show()


def _batches(data: DataConfig) -> list[dict[str, int]]:
    """Return the stages of the global batch."""
    stages = zip(data.batches.first_steps, data.batches.stage_tokens, strict=True)
    return [{"first_step": step, "tokens": tokens} for step, tokens in stages]
