"""The card of a data set: what it holds, as one self-contained HTML file drawn from its manifest and statistics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sisa_scale.data.build.shards.statistics import STATISTICS_NAME
from sisa_scale.data.manifest import Manifest, load_manifest
from sisa_scale.data.problems import os_errors
from sisa_scale.data.read.storage import LocalStorage, is_remote, open_storage
from sisa_scale.errors import DataError
from sisa_scale.files import write_text
from sisa_scale.reporting.style import INK, MUTED, SERIES, legend, new_figure, plain, to_svg

CARD_NAME = "card.html"

_MAX_SOURCE_ROWS, _MAX_SOURCE_BARS = 60, 12
_REASONS = {
    "below_min_characters": "few characters",
    "below_min_tokens": "few tokens",
    "duplicate": "duplicates",
    "bad_record": "bad records",
}
_HELDOUT_RULES = {
    "hash": "of the documents by a hash of their text",
    "lowest": "of the documents, those with the lowest hashes of their text: the share asked for holds out none",
    "stretches": "of the text of each document, in stretches spread over it, because there are only a few documents;"
    " what lies between counts as documents, too",
}


def write_card(location: Path | str, out: Path | None = None) -> Path:
    """Draw the card of a data set in a directory or at a URL and return its path.

    out: where it goes; left out, into the directory, or for a URL into the current one. Raises DataError if there is no
    data set, it was built without statistics, or the card cannot be written.
    """
    manifest, storage = load_manifest(location), open_storage(location)
    try:
        statistics = json.loads(storage.read(STATISTICS_NAME))
        page = render_card(_card_title(location), manifest, statistics)
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError.at(
            storage.where(STATISTICS_NAME),
            found=f"no statistics ({type(error).__name__}: {error})",
            allowed="data sets of this release have them",
            remedy="Build the data set again to get a card.",
        ) from error
    path = out or (storage.directory / CARD_NAME if isinstance(storage, LocalStorage) else Path(CARD_NAME))
    with os_errors(path):
        write_text(path, page)
    return path


def _card_title(location: Path | str) -> str:
    if is_remote(location):
        return str(location).partition("?")[0].rstrip("/").rpartition("/")[2]
    return Path(location).resolve().name


def render_card(name: str, manifest: Manifest, statistics: Mapping[str, Any]) -> str:
    """Return the page; all text of the data set is escaped, only our own figures are markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sisa_scale.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sources = sorted(statistics["sources"], key=lambda source: -source["num_tokens"])
    return environment.get_template("data_card.html.j2").render(
        name=name,
        manifest=manifest,
        facts=_facts(manifest, statistics),
        figures=[Markup(svg) for svg in _figures(statistics, sources)],
        splits=statistics["splits"],
        reasons=_REASONS,
        heldout_rule=_HELDOUT_RULES[manifest.build.heldout_rule if manifest.build else "hash"],
        sources=sources[:_MAX_SOURCE_ROWS],
        rest=_sum_sources(sources[_MAX_SOURCE_ROWS:]),
        num_rest=len(sources[_MAX_SOURCE_ROWS:]),
        top=statistics["vocabulary"]["top"],
        num_tokens=sum(split["num_tokens"] for split in statistics["splits"].values()),
        samples=statistics["samples"],
    )


def _facts(manifest: Manifest, statistics: Mapping[str, Any]) -> list[dict[str, str]]:
    splits = statistics["splits"].values()
    documents, num_bytes, tokens, padding = (
        sum(split[key] for split in splits)
        for key in ("num_documents", "num_bytes", "num_tokens", "num_padding_tokens")
    )
    removed = sum(sum(source["removed"].values()) for source in statistics["sources"])
    vocabulary = statistics["vocabulary"]
    heldout = statistics["splits"].get("heldout", {"num_documents": 0, "num_tokens": 0})
    facts = [
        ("Documents", f"{documents:,}", f"{removed:,} left out"),
        ("Tokens", EngFormatter(sep=" ", places=2)(tokens).strip(), f"{tokens:,}, ends of documents included"),
        ("Text", f"{EngFormatter('B', sep=' ', places=2)(num_bytes)}", "UTF-8"),
        (
            "Bytes per token",
            f"{num_bytes / max(1, tokens):.3f}",
            f"{tokens / max(1, documents):,.0f} tokens a document",
        ),
        (
            "Vocabulary used",
            f"{vocabulary['num_used_ids'] / vocabulary['num_ids']:.1%}",
            f"{vocabulary['num_used_ids']:,} of {vocabulary['num_ids']:,} ids",
        ),
        ("Held out", f"{heldout['num_documents']:,}", f"documents, {heldout['num_tokens']:,} tokens"),
        (
            "Unigram entropy",
            f"{manifest.splits['train'].unigram_entropy_nats:.3f} nats",
            "the loss without any context",
        ),
    ]
    if manifest.packing is not None:
        detail = f"best fit, sequences of {manifest.packing.sequence_tokens:,} tokens"
        facts.append(("Padding", f"{padding / max(1, tokens + padding):.2%}", detail))
    return [{"label": label, "value": value, "detail": detail} for label, value, detail in facts]


def _figures(statistics: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    figures = [_length_figure(statistics), _mass_figure(statistics), _rank_figure(statistics["vocabulary"])]
    if len(sources) > 1:
        figures.append(_source_figure(sources))
    return figures


def _length_figure(statistics: Mapping[str, Any]) -> str:
    figure, axes = new_figure("How long the documents are", "tokens of a document", "documents")
    edges = np.array(statistics["length_edges"], dtype=float)
    for (name, split), color in zip(statistics["splits"].items(), SERIES, strict=False):
        counts = np.array(split["documents_by_length"])
        if counts.any():
            axes.stairs(counts, edges[: counts.size + 1], fill=name == "train", color=color, label=_split_label(name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    _plain_numbers(axes)
    legend(axes)
    return to_svg(figure, "lengths")


def _mass_figure(statistics: Mapping[str, Any]) -> str:
    title = "Share of the tokens in documents up to a length"
    figure, axes = new_figure(title, "tokens of a document", "share of the tokens, %")
    edges = np.array(statistics["length_edges"], dtype=float)
    counts = np.array(statistics["splits"]["train"]["documents_by_length"], dtype=float)
    middles = np.sqrt(edges[: counts.size] * edges[1 : counts.size + 1])
    mass, number = np.cumsum(counts * middles), np.cumsum(counts)
    for values, label, color in ((mass, "tokens", SERIES[0]), (number, "documents", SERIES[2])):
        axes.plot(
            edges[1 : counts.size + 1], 100 * values / max(values[-1], 1), color=color, label=label, linewidth=1.8
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=edges[int(counts.nonzero()[0].min(initial=0))])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    legend(axes)
    return to_svg(figure, "mass")


def _rank_figure(vocabulary: Mapping[str, Any]) -> str:
    figure, axes = new_figure("How often each id occurs", "rank of the id", "occurrences")
    ranks, counts = np.array(vocabulary["counts_by_rank"], dtype=float).reshape(-1, 2).T
    axes.plot(ranks, counts, color=SERIES[0], linewidth=1.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    unused = vocabulary["num_ids"] - vocabulary["num_used_ids"]
    axes.annotate(
        f"{unused:,} of {vocabulary['num_ids']:,} ids never occur",
        (0.03, 0.06),
        xycoords="axes fraction",
        fontsize=8.5,
        color=MUTED,
    )
    _plain_numbers(axes)
    return to_svg(figure, "ranks")


def _source_figure(sources: Sequence[Mapping[str, Any]]) -> str:
    shown = list(sources[:_MAX_SOURCE_BARS])
    rest = sources[_MAX_SOURCE_BARS:]
    names = [_short(source["name"]) for source in shown]
    tokens = [source["num_tokens"] for source in shown]
    if rest:
        names.append(f"{len(rest)} others")
        tokens.append(sum(source["num_tokens"] for source in rest))
    height = 1.2 + 0.3 * len(names)
    figure, axes = new_figure("Where the tokens come from", "tokens", "", height=max(height, 2.0))
    places = np.arange(len(names))[::-1]
    axes.barh(places, tokens, color=SERIES[0], height=0.62)
    total = max(sum(tokens), 1)
    for place, count in zip(places, tokens, strict=True):
        axes.annotate(
            f"{count / total:.1%}",
            (count, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(places, [plain(name) for name in names])
    axes.set_xlim(0, 1.18 * max(*tokens, 1))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return to_svg(figure, "sources")


def _plain_numbers(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(EngFormatter(sep=""))


def _split_label(name: str) -> str:
    return {"train": "training", "heldout": "held out"}.get(name, name)


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:18]}…{name[-13:]}"


def _sum_sources(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not sources:
        return None
    keys = ("num_documents", "num_bytes", "num_tokens")
    removed = {reason: sum(source["removed"].get(reason, 0) for source in sources) for reason in _REASONS}
    return {key: sum(source[key] for source in sources) for key in keys} | {"removed": removed}
