"""EleutherAI's harness on a checkpoint and on its Hugging Face form, against `sisa-scale evaluate`."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conversion_cases import native, small

from sisa_scale.config.tasks import CHOICE_TASKS
from sisa_scale.conversion.convert import convert
from sisa_scale.data.tokenizer import load_tokenizer, train_tokenizer
from sisa_scale.evaluation.loading import model_scorer
from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.scoring import score_items
from sisa_scale.evaluation.tasks.choices import choice_task
from sisa_scale.evaluation.tasks.lambada import lambada_task

lm_eval = pytest.importorskip("lm_eval")
TEXT = "the old man saw a boat on the wide sea and took it home before the long night came over land"
WORDS = TEXT.split()
NUM_ITEMS = 30


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lambada") / "test.jsonl"
    texts = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(4 + i % 9)) for i in range(5153)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 9, 258, root / "tokenizer.json").path
    return native(root / "native", small("sisa", vocab_size=258)), tokenizer


def task(passages: Path) -> dict[str, Any]:
    """Return the harness's own lambada_openai, on a local file."""
    return {
        "task": "lambada_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(passages)}},
        "output_type": "loglikelihood",
        "test_split": "test",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    }


def theirs(model: Any, settings: dict[str, Any]) -> dict[str, float]:
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_defaults=False)  # thousands of files otherwise
    found = lm_eval.simple_evaluate(
        model=model, tasks=[settings], limit=NUM_ITEMS, bootstrap_iters=0, task_manager=tasks
    )
    return dict(found["results"][settings["task"]])


def questions(name: str) -> list[dict[str, Any]]:
    """Return rows with the fields of the published data set."""
    draw = random.Random(name)

    def words(num: int) -> str:
        return " ".join(draw.choices(WORDS, k=num))

    def row() -> dict[str, Any]:
        endings, answer = [words(draw.randint(1, 5)) for _ in range(4)], draw.randrange(2)
        if name == "hellaswag":
            parts = {"activity_label": words(1), "ctx_a": f"[header] {words(4)}. [title] {words(2)}", "ctx_b": words(2)}
            return {**parts, "endings": [f"{ending} [x]  ." for ending in endings], "label": str(answer)}
        if name == "arc_easy":
            labels = list("ABCD")
            return {"question": words(5), "choices": {"text": endings, "label": labels}, "answerKey": labels[answer]}
        if name == "piqa":
            return {"goal": words(4), "sol1": endings[0], "sol2": endings[1], "label": answer}
        options = {"option1": endings[0], "option2": endings[1], "answer": str(answer + 1)}
        return {"sentence": f"{words(3)} _ {words(3)}.", **options}

    return [row() for _ in range(NUM_ITEMS)]


def harness_task(name: str, path: Path) -> dict[str, Any]:
    """Return the harness's own definition of a task, reading a local file."""
    from lm_eval.tasks._yaml_loader import load_yaml

    relative = {"arc_easy": "arc/arc_easy", "winogrande": "winogrande/default"}.get(name, f"{name}/{name}")
    file = Path(lm_eval.__file__).parent / "tasks" / f"{relative}.yaml"
    settings = dict(load_yaml(file, resolve_func=True))
    for key in ("tag", "dataset_name", "training_split", "test_split"):
        settings.pop(key, None)
    local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(path)}}}
    return {**settings, **local, "task": f"{name}_local", "validation_split": "validation"}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_lambada_is_the_same_everywhere(checkpoint: tuple[Path, Path], passages: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from sisa_scale.conversion.harness import HarnessModel

    path, tokenizer = checkpoint
    ours = HarnessModel(str(path), tokenizer=str(tokenizer), batch_size=4)
    built = lambada_task(load_tokenizer(tokenizer), path=passages, limit=NUM_ITEMS, expected_sha256=None)
    results = score_items(built.items, model_scorer(ours.model, ours.config, ours._device), sequence_tokens=256,
                          batch_size=4)  # fmt: skip
    accuracy, perplexity = built.scores(results)
    assert isinstance(accuracy, Score)

    convert(path, tmp_path / "hf", "huggingface", tokenizer=tokenizer)
    hugging_face = HFLM(pretrained=str(tmp_path / "hf"), trust_remote_code=True, device="cpu", batch_size=4)
    for model in (ours, hugging_face):
        found = theirs(model, task(passages))
        assert 100 * found["acc,none"] == pytest.approx(accuracy.value)
        assert found["perplexity,none"] == pytest.approx(perplexity.value, rel=1e-5)


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_questions_are_answered_as_in_the_harness(name: str, checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    from sisa_scale.conversion.harness import HarnessModel

    path, tokenizer = checkpoint
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in questions(name)))
    ours = HarnessModel(str(path), tokenizer=str(tokenizer), batch_size=4)
    built = choice_task(name, load_tokenizer(tokenizer), tmp_path)
    scorer = model_scorer(ours.model, ours.config, ours._device)
    scores = {
        score.metric: score.value
        for score in built.scores(score_items(built.items, scorer, sequence_tokens=256, batch_size=4))
    }
    found = theirs(ours, harness_task(name, file))
    assert 100 * found["acc,none"] == pytest.approx(scores["accuracy"])
    if name != "winogrande":
        assert 100 * found["acc_norm,none"] == pytest.approx(scores["accuracy_per_character"])


def test_whole_texts_and_generation(checkpoint: tuple[Path, Path]) -> None:
    from lm_eval.api.instance import Instance

    from sisa_scale.conversion.harness import HarnessModel

    ours = HarnessModel(str(checkpoint[0]), tokenizer=str(checkpoint[1]))
    text = " ".join(WORDS * 20)
    assert len(ours.tok_encode(text)) > 2 * ours.max_length

    def request(kind: str, *arguments: Any) -> Any:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    rolled = ours.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    assert rolled[0] < -len(ours.tok_encode(text))
    settings = {"until": ["zzz"], "max_gen_toks": 6}
    (whole,) = ours.generate_until([request("generate_until", "the old man", settings)])
    assert whole
    cut = {**settings, "until": [whole[1]]}
    assert ours.generate_until([request("generate_until", "the old man", cut)]) == [whole.split(whole[1])[0]]
    (scored, both) = ours.loglikelihood([request("loglikelihood", "the old", word) for word in (" man", " the man")])
    assert scored[0] > both[0]
