"""EleutherAI's lm-evaluation-harness on our own checkpoints (extra `lm-eval`).

    python -m sisa_scale.conversion.harness run --model sisa-scale --model_args path=runs/152m --tasks lambada_openai

is the harness's own command with one more model. Converted Hugging Face directories need none of this: `--model hf`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from sisa_scale.conversion.trained import open_trained
from sisa_scale.data.read.tokenizer_choice import trained_tokenizer
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.evaluation.loading import model_scorer
from sisa_scale.evaluation.scoring import Item, ItemResult, score_items
from sisa_scale.models.generate import generate

_MOST_NEW_TOKENS = 256


@register_model("sisa-scale")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A run's newest checkpoint, or a checkpoint of any form, computing as `sisa-scale evaluate` does.

    path: run directory or checkpoint; tokenizer: a tokenizer.json, by default that of the run's data set.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str | None = None,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
    ) -> None:
        """Load the model; raises CheckpointError, DataError or ConfigError."""
        super().__init__()
        trained = open_trained(path)
        self.config = trained.config
        self.text: Tokenizer = trained_tokenizer(self.config, Path(tokenizer) if tokenizer else None)
        self._device = torch.device(device)
        self.model = trained.model(self._device)
        self.batch_size = 8 if batch_size == "auto" else int(batch_size)
        self.max_length = self.config.model.max_length_tokens
        del max_batch_size

    @property
    def eot_token_id(self) -> int:
        """Id of the end of a document, which stands for an empty context."""
        return self.text.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return ids without special tokens."""
        del add_special_tokens
        return self.text.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        del disable_tqdm
        items = [Item.continuation(context, continuation) for _, context, continuation in requests]
        return [(result.log_probability, result.is_exact) for result in self._score(items)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts in nats, in windows of the model's longest sequence."""
        del disable_tqdm
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            items = [Item.continuation(*make_disjoint_window(window)) for window in windows]
            totals.append(sum(result.log_probability for result in self._score(items)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations up to the first of the strings that end one."""
        del disable_tqdm
        return [self._continued(*request.args) for request in requests]

    def _continued(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        most = min(int(settings.get("max_gen_toks", _MOST_NEW_TOKENS)), self.max_length - 1)
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-(self.max_length - most) :]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.execution.precision == "bf16"):
            rows = generate(self.model, [prompt], max_tokens=most, eos_id=self.eot_token_id)
        text = self.text.decode(rows[0])
        for end in [until] if isinstance(until, str) else until:
            text = text.split(end)[0] if end else text
        return text

    def _score(self, items: Sequence[Item]) -> list[ItemResult]:
        return score_items(
            items,
            model_scorer(self.model, self.config, self._device),
            sequence_tokens=self.max_length,
            batch_size=self.batch_size,
            device=self._device,
            by_length=True,
        )


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
