"""What people call the columns of a table: names that are guessed, and columns that look as if they should count."""

from collections.abc import Iterable, Iterator, Mapping

from sisa_scale.scaling.table.notices import Notice

USUAL = {
    "params_scaling": (
        "params", "parameters", "n", "num_params", "n_params", "num_parameters", "n_parameters", "model_size",
        "model_params", "model_parameters", "param_count", "parameter_count",
    ),
    "tokens": (
        "d", "num_tokens", "n_tokens", "train_tokens", "training_tokens", "tokens_seen", "tokens_trained",
        "token_count", "total_tokens", "dataset_size",
    ),
    "loss": (
        "l", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "heldout_loss", "held_out_loss",
        "final_loss", "final_val_loss", "final_eval_loss", "loss_final", "val_loss_final",
    ),
    "train_flops": (
        "c", "flops", "flop", "training_flops", "training_flop", "total_flops", "compute", "train_compute",
        "training_compute",
    ),
}  # fmt: skip
_MARKS = ("outlier", "is_outlier", "outliers", "exclude", "is_excluded", "exclusion", "diverged", "is_diverged",
          "failed", "bad", "bad_run", "skip", "ignore", "drop", "discard", "invalid", "unstable")  # fmt: skip
_KINDS = ("arch", "architectures", "architecture_name", "arch_name", "model", "model_name", "model_type", "model_kind",
          "model_family", "family", "variant", "mixer", "method")  # fmt: skip
_MOST_KINDS = 12
_SAYS_NOTHING = {"", "none", "no", "n", "false", "f", "0", "0.0", "nan", "na", "null"}


def is_marked(cell: str) -> bool:
    """Whether a cell of `excluded` says that its row does not count."""
    return cell.strip().lower() not in _SAYS_NOTHING


def guess(columns: Iterable[str], needed: Iterable[str]) -> dict[str, str]:
    """Return meaning -> column for needed meanings that have no column and one usual name among the columns."""
    columns = list(columns)
    found = {}
    for meaning in needed:
        names = [name for name in USUAL.get(meaning, ()) if name in columns]
        if meaning not in columns and len(names) == 1:
            found[meaning] = names[0]
    return found


def unread_columns(columns: Mapping[str, list[str]], kept: list[int], *, has_flops: bool, by: str) -> Iterator[Notice]:
    """Warn of columns whose names say that they matter, and say how to read them. columns: those that are not read."""
    for name, cells in columns.items():
        marked = sum(is_marked(cells[i]) for i in kept)
        kinds = list(dict.fromkeys(cells[i] for i in kept if cells[i]))
        if name in _MARKS and 0 < marked < len(kept):
            text = (
                f"{name} marks {marked} of {len(kept)} rows, which count: leave them out by --columns excluded={name}"
            )
            yield Notice("unread-column", text)
        if name in _KINDS and by not in columns and 1 < len(kinds) <= min(_MOST_KINDS, len(kept) // 2):
            shown = ", ".join(kinds[:4]) + (" ..." if len(kinds) > 4 else "")
            yield Notice(
                "unread-column",
                f"{name} has {len(kinds)} values ({shown}), taken as one: tell them apart by --by {name}",
            )
        if not has_flops and name in USUAL["train_flops"]:
            yield Notice(
                "unread-column", f"{name} may hold the FLOPs of the training: read it by --columns train_flops={name}"
            )
