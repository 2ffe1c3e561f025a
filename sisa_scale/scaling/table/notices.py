"""Codes of everything the scaling commands warn of or refuse.

A refusal is a `DataError` with a code; a warning is a `Notice`, carried beside the result and printed with it.
"""

from dataclasses import dataclass

from sisa_scale.errors import DataError

REFUSALS = {
    "bad-number": "a cell that must be a positive finite number is not",
    "bad-table": "the file cannot be read as a table with a header",
    "missing-column": "a column that the command needs is not there",
    "too-few-runs": "there are fewer points, sizes or token counts than the law needs",
    "duplicated-runs": "one run stands in the table twice at the same tokens",
    "params-unit": "parameters are not counted one by one",
    "tokens-unit": "tokens are not counted one by one",
    "flops-unit": "FLOPs do not fit parameters times tokens",
    "loss-unit": "losses are not in nats per token",
    "mixed-tokenizers": "losses per token of several tokenizers",
    "mixed-corpora": "losses of models trained on several corpora",
    "mixed-evaluation": "losses on several evaluation sets, or training and evaluation losses",
    "mixed-conventions": "parameters counted by several conventions",
    "mixed-decay": "losses before and after the learning rate decayed",
    "mixed-architectures": "several architectures in a law for one",
    "fixed-tokens-per-parameter": "tokens are proportional to parameters",
    "not-identified": "the table does not determine the exponents",
    "no-convergence": "no start reached an optimum",
    "no-isoflop": "no compute budget has enough model sizes",
    "no-common-loss": "no loss was measured for both architectures",
    "bad-request": "an option does not fit the table or the form",
    "forecast-altered": "a forecast file is not the one that was registered",
    "forecast-seen": "a run to score was in the table of the forecast",
}
WARNINGS = {
    "few-runs": "few points for the number of parameters",
    "few-clusters": "few independent trunks of an architecture; intervals are wide and rough",
    "duplicated-rows": "equal rows; each set counts as one cluster",
    "undecayed": "losses before the learning rate decayed",
    "points-of-one-run": "several points of one run are not independent and may be undecayed",
    "one-trajectory": "points without run_id look like one run; they count as one cluster, and may be undecayed",
    "commented-rows": "rows behind # are not read",
    "guessed-columns": "columns are read by their usual names",
    "unread-column": "a column that looks as if it should count is not read",
    "repeated-data": "more than four epochs",
    "embedding-heavy": "embeddings are over 30 % of the parameters",
    "params-unit-suspect": "tokens per parameter are unusual",
    "loss-unit-suspect": "losses are unusual for models of these sizes",
    "loss-rises": "runs ended well above smaller or shorter ones, or the fitted law rises",
    "flops-suspect": "FLOPs per parameter and token are unusual",
    "flops-6nd": "no FLOPs in the table; 6 x parameters x tokens is used",
    "cost-model": "costs do not follow a power of size times tokens",
    "excluded-rows": "rows marked in the column `excluded` are left out",
    "narrow-ratio": "tokens per parameter vary little",
    "irreducible-loss": "E is not determined",
    "resamples-lost": "resamples without an optimum, or at the edge of sense",
    "rough-interval": "the interval is far from what the curvature predicts",
    "optimum-at-edge": "an isoFLOP optimum lies at or beyond the edge of its sizes",
    "budget-left-out": "a budget without a usable parabola",
    "two-budgets": "two budgets have a vertex each; an exponent needs three",
    "methods-disagree": "the isoFLOP and the parametric exponent differ by more than their intervals",
    "extrapolation": "beyond the measured range",
    "frontier-outside": "the best size or tokens by the law were not measured",
    "form-not-comparable": "E and exponents of this form do not compare with those of other forms",
    "held-constants": "constants of the form are held at a value, for the runs do not determine them",
    "separate-exponents": "separate exponents from few runs",
    "misfit": "residuals follow tokens per parameter, or parameters: the form is wrong for these runs",
    "outliers": "points far from the law",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning: its code, and what was found in this table."""

    code: str
    text: str

    def __post_init__(self) -> None:
        if self.code not in WARNINGS:
            raise KeyError(self.code)


class RefusalError(DataError):
    """The table or the request cannot give an honest number. `code` is one of REFUSALS."""

    code = "bad-table"


def refusal(code: str, where: object, *, found: str, allowed: str, remedy: str) -> RefusalError:
    """Build a refusal with its code in the message."""
    if code not in REFUSALS:
        raise KeyError(code)
    error = RefusalError.at(f"{where} [{code}]", found=found, allowed=allowed, remedy=remedy)
    error.code = code
    return error
