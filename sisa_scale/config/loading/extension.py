"""A trained model in use, or trained on: what its weights allow to change, and how it outgrows its trained length."""

from collections.abc import Iterable
from typing import Any

from sisa_scale.config.loading.load import config_from_plain, parse_override, resolve
from sisa_scale.config.loading.yaml_source import Setting, flatten_plain, merge
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import ConfigError, Problem

ALLOWED = ("model.max_length_tokens", "model.rope_base", "model.rope", "evaluation")
_NOTHING = Setting(None, "")
_LONGEST, _TRAINED = "model.max_length_tokens", "model.trained_length_tokens"


def trained_config(plain: dict[str, Any], origin: str, overrides: Iterable[str] = ()) -> RunConfig:
    """Rebuild the config of a trained model from what `to_plain` made of it, with `key=value` overrides.

    A longer `model.max_length_tokens` needs a choice of `model.rope.scaling` beside it, every time: one made for an
    earlier length does not count. The length that the function depends on is kept in `model.trained_length_tokens`.
    Raises ConfigError for an override of anything but ALLOWED, and for lengths without a choice.
    """
    settings = flatten_plain("", plain, origin)
    trained = settings[_LONGEST]
    asked: dict[str, Setting] = {}
    for override in overrides:
        merge(asked, parse_override(override))
    for key, setting in asked.items():
        if not _may_change(key):
            raise ConfigError.at(
                setting.origin,
                found=key,
                allowed=f"of a trained model, {', '.join(ALLOWED)} may change",
                remedy="Leave it as it was trained.",
            )
    if _LONGEST in asked and asked[_LONGEST].value != trained.value:
        if settings.get(_TRAINED, Setting(None, origin)).value is None:
            settings[_TRAINED] = Setting(trained.value, origin)
        merge(settings, {"model.rope": Setting(None, origin)})
    merge(settings, asked)
    return resolve(settings).config


def check_begins(plain: dict[str, Any], origin: str, model: ModelConfig) -> None:
    """Check that a new run of `model` may begin with the weights of a trained one, perhaps at a greater length.

    Raises ConfigError that lists every difference which would make it another function.
    """
    trained = config_from_plain(plain, origin).model
    before = flatten_plain("model", to_plain(trained), origin)
    after = flatten_plain("model", to_plain(model), "")
    problems = [
        Problem(
            key,
            str(after[key].value if key in after else None),
            f"the weights of {origin} were trained with {before[key].value if key in before else None}",
            "Take it over, or begin with fresh weights.",
        )
        for key in sorted(before.keys() | after.keys())
        if key != _TRAINED
        and not _may_change(key)
        and before.get(key, _NOTHING).value != after.get(key, _NOTHING).value
    ]
    if model.trained_length != trained.trained_length:
        problems.append(
            Problem(
                _TRAINED,
                str(model.trained_length),
                f"the function of {origin} depends on {trained.trained_length}",
                f"Write {trained.trained_length}.",
            )
        )
    if problems:
        raise ConfigError.many(problems)


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(allowed + ".") for allowed in ALLOWED)
