"""What people do with an exported model: train it, resize it, offload it, adapt it; right, or refused at the call."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_cases import native, small
from zoo import decoder

from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.data.tokenizer import train_tokenizer

transformers = pytest.importorskip("transformers")
KINDS = ["transformer normalized", "sisa", "mamba2", "mamba3", "jamba sisa normalized", "hymba sisa normalized"]
TOKENS = torch.arange(2, 34)[None]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return train_tokenizer(["the old man and the sea"] * 9, 258, path).path


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return export(request.param, tmp_path_factory.mktemp("exported"), tokenizer)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return export("sisa normalized", tmp_path_factory.mktemp("one"), tokenizer)


def export(name: str, root: Path, tokenizer: Path) -> Path:
    ours = small(name, vocab_size=258, vocab_multiple=64, num_layers=2)
    convert(native(root / "native", ours), root / "hf", "huggingface", tokenizer=tokenizer)
    return root / "hf"


def load(directory: Path, **settings: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **settings).eval()


@torch.no_grad()
def test_a_config_gives_drawn_weights(exported: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(exported, trust_remote_code=True)
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True))
    first, same, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.embedding.weight"], other["model.embedding.weight"])
    fresh = decoder(open_weights(exported).description.run.model)
    for name, parameter in fresh.named_parameters():
        drawn, width = first[f"model.{name}"], 9 * (parameter.max() - parameter.min())
        assert drawn.max() <= parameter.max() + width, name
        assert drawn.min() >= parameter.min() - width, name
        assert (drawn.max() > drawn.min()) == (width > 0), name


@torch.no_grad()
def test_what_a_file_lacks_is_drawn(one: Path) -> None:
    model = load(one)
    state = {name: value for name, value in model.state_dict().items() if "bias" not in name and "norm" not in name}
    partly = type(model).from_pretrained(None, config=model.config, state_dict=state)
    assert torch.equal(partly.model.norm.weight, torch.ones(64))
    assert torch.equal(partly.model.embedding.weight, model.model.embedding.weight)
    assert partly.model.blocks[0].mixer.decay_bias.isfinite().all()


@torch.no_grad()
def test_a_cache_is_returned_and_taken(exported: Path) -> None:
    model = load(exported)
    whole = model(TOKENS, output_hidden_states=True)
    assert whole.cache is None
    assert [x.shape for x in whole.hidden_states] == [(1, 32, 64)] * 3
    torch.testing.assert_close(model.model.head.logits(whole.hidden_states[-1]), whole.logits)
    before = model(TOKENS[:, :20], use_cache=True)
    after = model(TOKENS[:, 20:], cache=before.cache)
    assert after.cache.get_seq_length() == 32
    torch.testing.assert_close(torch.cat((before.logits, after.logits), 1), whole.logits, rtol=1e-4, atol=1e-4)
    old = model(TOKENS[:, :20], use_cache=True, return_dict=False)
    again = model(TOKENS[:, 20:], past_key_values=old[1], return_dict=False)
    assert torch.equal(again[0], after.logits)
    with pytest.raises(ValueError, match="use_cache=False"):
        model(TOKENS, cache=before.cache, output_hidden_states=True)


def test_checkpointing_gives_the_same_gradients(exported: Path) -> None:
    model = load(exported).train()
    gradients = []
    for enabled in (False, True):
        if enabled:
            model.activation_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing == enabled
        model.zero_grad()
        model(TOKENS, labels=TOKENS, use_cache=True).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert [block.recomputation for block in model.model.blocks] != ["none"] * 2
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@torch.no_grad()
def test_another_vocabulary_is_saved_and_read_back(exported: Path, tmp_path: Path) -> None:
    model, before = load(exported), load(exported)(TOKENS).logits
    model.resize_token_embeddings(330)
    assert model.model.embedding.weight.shape[0] == 384
    assert model.model.head.weight is model.model.embedding.weight
    logits = model(torch.tensor([[3, 329]])).logits
    assert logits.shape == (1, 2, 330)
    assert torch.equal(model(TOKENS).logits[..., :258], before)
    model.save_pretrained(tmp_path / "resized")
    assert torch.equal(load(tmp_path / "resized")(torch.tensor([[3, 329]])).logits, logits)
    convert(tmp_path / "resized", tmp_path / "native", "native")
    assert open_weights(tmp_path / "native").description.run.model.vocab_size == 330


@torch.no_grad()
def test_offloaded_weights_are_there_when_a_method_reads_them(exported: Path, tmp_path: Path) -> None:
    plain, settings = load(exported), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    split = {"model.embedding": "cpu", "model.norm": "cpu", "model.head": "cpu", "model.blocks.0": "cpu"}
    split |= {"model.blocks.1": "disk"} | ({"model.meta": "cpu"} if plain.model.meta is not None else {})
    for device_map in (split, {"": "disk"}):
        model = load(exported, device_map=device_map, offload_folder=str(tmp_path / "offload"))
        assert model.model.blocks[1].mixer_norm.weight.is_meta
        assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
        assert torch.equal(model.generate(TOKENS, **settings), plain.generate(TOKENS, **settings))
    with pytest.raises(ValueError, match="offloaded"):
        model.resize_token_embeddings(300)


@torch.no_grad()
def test_adapters_reach_every_projection(exported: Path) -> None:
    peft = pytest.importorskip("peft")
    plain = load(exported)
    model = peft.get_peft_model(
        load(exported), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", r=2)
    )
    linear = {name for name, p in plain.model.named_parameters() if p.dim() == 2 and ".conv." not in name}
    names = [name for name, _ in model.named_parameters() if ".lora_A" in name]
    adapted = {name.split(".model.model.")[1].partition(".lora_A")[0] for name in names}
    assert {f"{name}.weight" for name in adapted} == linear - {"embedding.weight", "meta"}
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.normal_(std=0.05)
    logits = model(input_ids=TOKENS).logits
    assert (logits - plain(TOKENS).logits).abs().max() > 0.01
    tokens = model.generate(input_ids=TOKENS, max_new_tokens=4, do_sample=False, eos_token_id=None)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(TOKENS).logits, logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(merged.generate(TOKENS, max_new_tokens=4, do_sample=False, eos_token_id=None), tokens)


@torch.no_grad()
def test_half_precision_is_right_or_refused(exported: Path) -> None:
    wanted = load(exported)(TOKENS).logits
    found = load(exported, dtype=torch.bfloat16)(TOKENS).logits
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()
    half = load(exported, dtype=torch.float16)
    for call in (lambda: half(TOKENS), lambda: half.generate(TOKENS, max_new_tokens=2)):
        with pytest.raises(ValueError, match="bfloat16"):
            call()


def test_the_trainer_gives_one_loss_however_a_batch_is_split(one: Path, tmp_path: Path) -> None:
    rows = [{"input_ids": list(range(2 + i, 42 + i)), "labels": list(range(2 + i, 42 + i))} for i in range(4)]
    tokens = torch.tensor([row["input_ids"] for row in rows])

    def logged(sequences: int, **settings: Any) -> tuple[float, float]:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "trainer"), per_device_train_batch_size=sequences, max_steps=1, logging_steps=1,
            gradient_accumulation_steps=4 // sequences, report_to=[], use_cpu=True, save_strategy="no",
            max_grad_norm=1e9, **settings,
        )  # fmt: skip
        trainer = transformers.Trainer(model=load(one), args=arguments, train_dataset=rows)
        trainer.train()
        step = next(line for line in trainer.state.log_history if "loss" in line)
        return step["loss"], step["grad_norm"]

    model = load(one)
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    for found in (logged(4), logged(2), logged(1, gradient_checkpointing=True)):
        assert found == pytest.approx((loss.item(), norm.item()), rel=1e-4)
    # With smoothing the Trainer computes the loss itself, and has to know that labels are one token ahead.
    log_p = model(tokens).logits[:, :-1].log_softmax(-1)
    smoothed = 0.9 * loss + 0.1 * -log_p.mean()
    assert logged(4, label_smoothing_factor=0.1)[0] == pytest.approx(smoothed.item(), rel=1e-4)


@torch.no_grad()
def test_the_loss_follows_its_keywords_and_others_are_refused(one: Path) -> None:
    model = load(one)
    mean = model(TOKENS, labels=TOKENS).loss
    assert model(TOKENS, labels=TOKENS, num_items_in_batch=torch.tensor(62)).loss == pytest.approx(mean / 2)
    shifted = torch.nn.functional.pad(TOKENS[:, 1:], (0, 1), value=-100)
    assert model(TOKENS, shift_labels=shifted).loss == pytest.approx(mean)
    half = TOKENS.clone()
    half[:, :16] = 0
    assert model(TOKENS, labels=half, ignore_index=0).loss == pytest.approx(
        model(TOKENS, labels=half.masked_fill(half == 0, -100)).loss
    )
    positions = torch.arange(32)[None]
    assert torch.equal(model(TOKENS, position_ids=positions).logits, model(TOKENS).logits)
    for wrong, says in (
        ({"position_ids": positions % 16}, "packed"),
        ({"inputs_embeds": torch.zeros(1, 32, 64), "input_ids": None}, "inputs_embeds"),
        ({"output_attentions": True}, "output_attentions"),
        ({"cu_seq_lens_q": torch.tensor([0, 16, 32])}, "cu_seq_lens_q"),
        ({"attention_mask": torch.ones(1, 1, 32, 32)}, "mask of shape"),
        ({"labels": TOKENS, "logits_to_keep": 1}, "logits_to_keep"),
        ({"cache": ()}, "SisaScaleCache"),
    ):
        with pytest.raises(ValueError, match=says):
            model(**{"input_ids": TOKENS, **wrong})


def test_the_published_form_generates_without_a_cache(tmp_path: Path, tokenizer: Path) -> None:
    from sisa_scale.config.mixers.sisa import SisaConfig

    with pytest.warns(match="published"):
        ours = small("sisa", vocab_size=258, num_layers=2, sisa=SisaConfig(d_s=16, form="published"))
        convert(native(tmp_path / "native", ours), tmp_path / "hf", "huggingface", tokenizer=tokenizer)
        model = load(tmp_path / "hf")
    assert model.generate(TOKENS, max_new_tokens=3, eos_token_id=None).shape == (1, 35)
    with pytest.raises(ValueError, match="no cache"):
        model(TOKENS, use_cache=True)
