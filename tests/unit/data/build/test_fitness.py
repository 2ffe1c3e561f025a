"""Tokenizers of every make: which token ends a document, which lose text, which draw at random."""

import json
from functools import partial
from pathlib import Path

import pytest
import tokenizers
from data_sets import texts_of

from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.tokenizer import END_OF_TEXT, load_tokenizer
from sisa_scale.errors import DataError

build = partial(build_dataset, block_tokens=1 << 12, heldout_fraction=0)


def renamed(path: Path, out: Path, *names: str) -> Path:
    """The tokenizer with other special tokens in place of its end of document."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"].pop(END_OF_TEXT)
    (end,) = [token for token in content["added_tokens"] if token["content"] == END_OF_TEXT]
    content["added_tokens"].remove(end)
    size = len(content["model"]["vocab"]) + 1
    for number, name in enumerate(names):
        token = end | {"content": name, "id": size + number if number else 0}
        content["model"]["vocab"][name] = token["id"]
        content["added_tokens"].append(token)
    out.write_text(json.dumps(content), encoding="utf-8")
    return out


@pytest.mark.parametrize(
    "names",
    [
        ("<|end_of_text|>", "<|eot_id|>"),
        ("<eos>", "<end_of_turn>"),
        ("<｜end▁of▁sentence｜>",),
        ("</s>", "[/INST]"),
        ("[SEP]", "[CLS]"),
    ],
)
def test_usual_ends_are_found(tokenizer_path: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    tokenizer = load_tokenizer(renamed(tokenizer_path, tmp_path / "t.json", *names))
    assert tokenizer.decode([tokenizer.eos_id]) == names[0]


def test_special_tokens_come_before_plain_ones_of_a_usual_name(tokenizer_path: Path, tmp_path: Path) -> None:
    path = renamed(tokenizer_path, tmp_path / "t.json", "<eos>", "</s>")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"][-1]["special"] = False  # as the marks of HTML are in some
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode([tokenizer.eos_id]) == "<eos>"


def test_any_token_can_be_named_and_the_data_set_remembers(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    path = renamed(tokenizer_path, tmp_path / "t.json", "<stop>", "<|eot_id|>")
    with pytest.raises(DataError, match=r"no token '<nope>'.*--eos-token: .*<stop>"):
        load_tokenizer(path, "<nope>")
    out = tmp_path / "out"
    build([corpus], tokenizer=path, out=out, eos_token="<stop>")
    assert load_manifest(out).eos_id == 0
    copied = load_tokenizer(out / "tokenizer.json")
    assert copied.decode([copied.eos_id]) == "<stop>"
    assert load_tokenizer(path).eos_id != 0
    assert texts_of(out)


def test_tokenizers_without_an_end_say_which_token_could_be_it(
    corpus: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    path = renamed(tokenizer_path, tmp_path / "t.json", "<|stop|>")
    with pytest.raises(DataError, match=r"no end-of-document token.*--eos-token: <\|padding\|>, <\|stop\|>"):
        load_tokenizer(path)
    manifest = build([corpus], tokenizer=path, out=tmp_path / "out", eos_token="<|stop|>")
    assert load_tokenizer(tmp_path / "out" / "tokenizer.json").eos_id == manifest.eos_id


def test_random_tokenizers_are_refused_for_building_and_quiet_elsewhere(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, texts: list[str]
) -> None:
    content = json.loads(tokenizer_path.read_text(encoding="utf-8"))
    content["model"]["dropout"] = 0.5
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.json: found a tokenizer that draws ids at random \(model\.dropout 0\.5\)"):
        build([corpus], tokenizer=path, out=tmp_path / "out")
    assert load_tokenizer(path).encode_batch(texts) == load_tokenizer(tokenizer_path).encode_batch(texts)
    content["model"]["dropout"] = None  # the remedy
    path.write_text(json.dumps(content), encoding="utf-8")
    build([corpus], tokenizer=path, out=tmp_path / "out")


def test_sampling_in_a_unigram_model_is_random_too(tmp_path: Path) -> None:
    vocabulary = [("<unk>", -9.0), ("a", -1.0), ("aa", -1.1)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=0))
    backend.add_special_tokens(["</s>"])
    content = json.loads(backend.to_str())
    content["model"] |= {"nbest_size": 4, "alpha": 0.1}
    (tmp_path / "t.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    assert "nbest_size" in tokenizer.randomness
    assert len({tuple(tokenizer.encode("a" * 30)) for _ in range(20)}) == 1


def test_text_that_a_tokenizer_loses_is_announced_and_noted(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"</s>": 0, "<unk>": 1, "whale": 2, "the": 3}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_text("the whale 鯨鯨鯨 the whale")
    said: list[str] = []
    manifest = build([tmp_path / "a.txt"], tokenizer=tmp_path / "t.json", out=tmp_path / "out", announce=said.append)
    assert manifest.build is not None
    assert 0.1 < manifest.build.lost_share < 0.2
    (warning,) = [text for text in said if "loses" in text]
    assert f"{manifest.build.lost_share:.2%}" in warning
    assert ascii("鯨") in warning


def test_nothing_is_lost_by_bytes(built: Path) -> None:
    info = load_manifest(built).build
    assert info is not None
    assert info.lost_share == 0
