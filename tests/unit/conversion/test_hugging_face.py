"""What `transformers` makes of a converted directory, against our own decoder."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_cases import native, small
from zoo import TINY

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.data.tokenizer import train_tokenizer
from sisa_scale.models.cache import REANCHOR_NATS
from sisa_scale.models.generate import generate

transformers = pytest.importorskip("transformers")
PROMPTS = [[5, 17, 80], [9] * 20 + [40, 3], [7]]
MAX_TOKENS = 24


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return train_tokenizer(["the old man and the sea"] * 9, 258, path).path


def converted(name: str, root: Path, tokenizer: Path, **settings: Any) -> tuple[Any, Any, Path]:
    ours = small(name, vocab_size=258)
    convert(native(root / "native", ours), root / "hf", "huggingface", tokenizer=tokenizer, **settings)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(root / "hf", trust_remote_code=True)
    return ours, theirs.eval(), root / "hf"


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    length = max(map(len, prompts))
    rows = [[1] * (length - len(p)) + p for p in prompts]
    mask = [[0] * (length - len(p)) + [1] * len(p) for p in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("name", TINY)
def test_generates_what_we_generate_and_keeps_every_bit(name: str, tmp_path: Path, tokenizer: Path) -> None:
    ours, theirs, directory = converted(name, tmp_path, tokenizer, shard_bytes=200_000)
    wanted = generate(ours, PROMPTS, max_tokens=MAX_TOKENS, eos_id=-1)
    inputs = left_padded(PROMPTS)
    settings: dict[str, Any] = {"max_new_tokens": MAX_TOKENS, "do_sample": False, "eos_token_id": None}
    out = theirs.generate(**inputs, **settings)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == wanted

    tokens = torch.randint(258, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours.head.logits(ours.hidden(tokens))
        assert torch.equal(theirs(tokens).logits, logits)
        loss = theirs(tokens, labels=tokens).loss
    torch.testing.assert_close(loss, ours(tokens[:, :-1], tokens[:, 1:]).detach())

    theirs.save_pretrained(tmp_path / "again", max_shard_size="150KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    convert(tmp_path / "again", tmp_path / "back", "native")
    back = open_weights(tmp_path / "back")
    for key, tensor in ours.named_parameters():
        assert torch.equal(back.read(key), tensor.detach())
    assert back.description.to_json() == open_weights(tmp_path / "native").description.to_json()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, logits)
    del directory


@pytest.mark.parametrize(
    "name", ["transformer", "sisa", "mamba2", "mamba3", "gated_deltanet", "jamba sisa", "hymba sisa local"]
)
def test_beams_reorder_the_cache(name: str, tmp_path: Path, tokenizer: Path) -> None:
    _, theirs, _ = converted(name, tmp_path, tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 4, "do_sample": False, "eos_token_id": None}
    inputs = left_padded(PROMPTS[:2])
    with_cache = theirs.generate(**inputs, **settings)
    assert torch.equal(with_cache, theirs.generate(**inputs, **settings, use_cache=False))
    greedy = theirs.generate(**inputs, **{**settings, "num_beams": 1})
    assert not torch.equal(with_cache, greedy)


def test_generates_the_same_beyond_two_moves_of_the_anchor(tmp_path: Path, tokenizer: Path) -> None:
    ours = small("sisa", vocab_size=258, sisa=SisaConfig(d_s=16, form="query_blocks", block_tokens=32))
    with torch.no_grad():
        for block in ours.blocks:
            block.mixer.decay_bias.fill_(0.3)
    convert(native(tmp_path / "native", ours), tmp_path / "hf", "huggingface", tokenizer=tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    wanted = generate(ours, PROMPTS, max_tokens=180, eos_id=-1)
    nats = [math.log(2) / layer.half_life_tokens * 180 for layer in ours.monitor(torch.tensor(wanted))]
    assert min(nats) > 3 * REANCHOR_NATS
    inputs = left_padded(PROMPTS)
    out = theirs.generate(**inputs, max_new_tokens=180, do_sample=False, eos_token_id=None)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == wanted
    assert len(set(wanted[0])) > 20


def test_sampling_repeats_with_its_seed_and_reads_the_cache(tmp_path: Path, tokenizer: Path) -> None:
    _, theirs, _ = converted("sisa", tmp_path, tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": 16, "do_sample": True, "top_k": 20, "eos_token_id": None}
    rows = []
    for use_cache in (True, True, False):
        transformers.set_seed(3)
        rows.append(theirs.generate(**left_padded(PROMPTS), **settings, use_cache=use_cache))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_padding_on_either_side_leaves_the_logits_of_tokens(tmp_path: Path, tokenizer: Path) -> None:
    _, theirs, _ = converted("hymba sisa", tmp_path, tokenizer)
    alone = torch.tensor([[5, 17, 80]])
    rows = torch.tensor([[1, 1, 5, 17, 80], [5, 17, 80, 1, 1]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        wanted, found = theirs(alone).logits[0], theirs(rows, attention_mask=mask).logits
    torch.testing.assert_close(found[0, 2:], wanted)
    torch.testing.assert_close(found[1, :3], wanted)
    with pytest.raises(ValueError, match="not between them"):
        theirs(rows, attention_mask=torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="padding_side"):
        theirs.generate(input_ids=rows, attention_mask=torch.tensor([[1, 1, 1, 0, 0]] * 2), max_new_tokens=2)


def test_the_tokenizer_gives_our_ids(tmp_path: Path, tokenizer: Path) -> None:
    from sisa_scale.data.tokenizer import load_tokenizer

    _, _, directory = converted("transformer", tmp_path, tokenizer)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(directory), load_tokenizer(tokenizer)
    for text in ("the old man", " and <|endoftext|> the sea\n", "naïve – 海"):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.eos_id
    assert theirs(["a", "the old"], padding=True)["attention_mask"][0][0] == 0


@pytest.mark.parametrize("template", ["<|endoftext|> $A", "$A <|endoftext|>"])
def test_a_tokenizer_that_adds_tokens_is_written_as_texts_were_encoded(
    tmp_path: Path, tokenizer: Path, template: str
) -> None:
    import tokenizers

    from sisa_scale.data.tokenizer import load_tokenizer

    backend = tokenizers.Tokenizer.from_file(str(tokenizer))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<|endoftext|>", 0)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    assert 0 in backend.encode("the old").ids
    _, _, directory = converted("transformer", tmp_path, tmp_path / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    for text in ("the old man", ""):
        wanted = load_tokenizer(tmp_path / "tokenizer.json").encode(text)
        assert theirs(text)["input_ids"] == wanted
        assert theirs.encode(text) == wanted
    # What was written is the tokenizer of the data all the same.
    again = load_tokenizer(directory / "tokenizer.json")
    assert again.encode("the old man") == load_tokenizer(tmp_path / "tokenizer.json").encode("the old man")


def test_new_tokens_fit_and_the_card_says_how_to_load(tmp_path: Path, tokenizer: Path) -> None:
    _, theirs, directory = converted("sisa", tmp_path, tokenizer)
    assert theirs.generation_config.max_new_tokens == 128
    assert theirs.generate(torch.full((1, 128), 5), eos_token_id=None).shape == (1, 256)
    assert "AutoTokenizer.from_pretrained(path, trust_remote_code=True)" in (directory / "README.md").read_text()


def test_needs_no_sisa_scale(tmp_path: Path, tokenizer: Path) -> None:
    _, _, directory = converted("sisa", tmp_path, tokenizer)
    blocker = tmp_path / "blocked" / "sisa_scale"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("raise ImportError('not here')\n")
    program = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(directory)!r}, trust_remote_code=True)\n"
        "print(model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, eos_token_id=None).shape)\n"
        "assert 'sisa_scale' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(blocker.parent), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 5])" in done.stdout
