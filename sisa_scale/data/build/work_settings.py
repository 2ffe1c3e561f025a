"""The settings of the work on units, of those of a build."""

import hashlib
import json
import unicodedata
from dataclasses import asdict
from pathlib import Path

from sisa_scale.data import manifest as format_
from sisa_scale.data.build.engines import EngineInfo
from sisa_scale.data.build.planning import BuildPlan
from sisa_scale.data.build.settings import BuildSettings, WorkSettings
from sisa_scale.data.tokenizer import Tokenizer

# Of the files that the work on a unit leaves; another release's are not gone on with.
_RESULTS_VERSION = 2


def work_settings(
    settings: BuildSettings, tokenizer: Tokenizer, stage: str, copied: Path, engine: EngineInfo, plan: BuildPlan | None
) -> WorkSettings:
    """Return the settings of the work on units. copied: the tokenizer; plan: not there yet in the stage "survey"."""
    fraction = plan.holding.fraction if plan else settings.heldout_fraction
    cutting = plan.holding.cutting if plan else None
    content = [
        _RESULTS_VERSION,
        stage,
        asdict(settings.cleaning),
        fraction,
        asdict(cutting) if cutting else None,
        settings.seed,
        settings.unit_bytes,
        tokenizer.sha256,
        tokenizer.eos_id,
        asdict(engine),
        unicodedata.unidata_version,
    ]
    return WorkSettings(
        key=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        stage=stage,
        tokenizer=copied,
        tokenizer_sha256=tokenizer.sha256,
        engine=engine.name,
        engine_version=engine.version,
        eos_id=tokenizer.eos_id,
        vocab_size=tokenizer.vocab_size,
        dtype=format_.token_dtype(tokenizer.vocab_size),
        cleaning=settings.cleaning,
        heldout_fraction=fraction,
        cutting=cutting,
        seed=settings.seed,
        unit_bytes=settings.unit_bytes,
        on_bad_record=settings.on_bad_record,
    )
