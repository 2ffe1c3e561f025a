"""Every architecture at eight times its trained length, as `evaluate` opens it."""

import pytest
import torch
from conversion_cases import run_config, small
from zoo import TINY

from sisa_scale.config.loading.extension import trained_config
from sisa_scale.errors import ConfigError
from sisa_scale.evaluation.loading import model_scorer
from sisa_scale.evaluation.scoring import Item, ItemResult, score_items
from sisa_scale.models.decoder import Decoder

TRAINED, LONG = 64, 512
LONGER = f"model.max_length_tokens={LONG}"


@pytest.mark.parametrize("name", [name for name in TINY if "normalized" not in name])
def test_what_is_within_the_trained_length_is_read_as_before_and_the_rest_is_read(name: str) -> None:
    model = small(name, max_length_tokens=TRAINED)
    plain = run_config(model.config)
    choice = []
    if any(model.config.is_rotated):
        with pytest.raises(ConfigError, match=r"model\.rope\.scaling"):
            trained_config(plain, "test", [LONGER])
        choice = ["model.rope.scaling=none"]
    longer = trained_config(plain, "test", [LONGER, *choice])
    extended = Decoder(longer.model, longer.execution, "math").eval()
    extended.load_state_dict(model.state_dict())

    def score(decoder: Decoder, *items: Item) -> list[ItemResult]:
        scorer = model_scorer(decoder, longer, torch.device("cpu"))
        return score_items(items, scorer, sequence_tokens=TRAINED, batch_size=2)

    tokens = torch.randint(2, 100, (LONG + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    beginning = Item(tokens[: TRAINED + 1], 0)
    [before] = score(model, beginning)
    within, whole = score(extended, beginning, Item(tokens, 0, is_whole=True))
    assert within.log_probability == pytest.approx(before.log_probability, rel=1e-4)
    assert whole.num_tokens == LONG
    assert torch.tensor(whole.log_probability).isfinite()
    # Nothing comes from the future, and what comes from far back is not lost.
    others = [101 - token for token in tokens]
    hidden = extended.hidden(torch.tensor([tokens[:-1], [*tokens[: LONG // 2], *others[LONG // 2 : -1]]]))
    assert torch.allclose(hidden[0, : LONG // 2], hidden[1, : LONG // 2], rtol=1e-4, atol=1e-4)
    end = Item(tokens, LONG - 9, is_whole=True)
    far, near = score(extended, end, end._replace(tokens=[*others[: LONG // 2], *tokens[LONG // 2 :]]))
    if "local" not in name:
        assert far.log_probability != near.log_probability
