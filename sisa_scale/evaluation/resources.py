"""What the tasks of a run are made of, gathered from its config and data set."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sisa_scale.config.run import RunConfig
from sisa_scale.data.manifest import read_manifest
from sisa_scale.data.read.heldout import Heldout, read_heldout
from sisa_scale.data.read.tokenizer_choice import check_vocabulary, trained_tokenizer
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.errors import DataError
from sisa_scale.evaluation.suite import EvaluationResources

# Cloze passages are cut from the first so many tokens of the held-out split: thousands of passages, a few MB at most.
_MOST_CLOZE_TOKENS = 1 << 20


def load_resources(
    config: RunConfig, tokenizer_file: Path | None = None, *, all_passages: bool = False
) -> EvaluationResources:
    """Open the held-out split and the tokenizer of a run's data set.

    tokenizer_file: in its place; then the data set may be missing, and only tasks that need it fail. all_passages:
    `evaluation.num_cloze_items` limits cloze passages alone, not those of LAMBADA's file. Raises DataError when the
    tokenizer has more ids than the model's vocabulary or is not the data set's, or the split is missing.
    """
    settings = config.evaluation
    length = settings.context_tokens or config.data.sequence_tokens
    problem = None
    if tokenizer_file is None:
        check_vocabulary(config, {name: read_manifest(source.path) for name, source in config.data.sources.items()})
    tokenizer = trained_tokenizer(config, tokenizer_file)
    num_available = max(settings.num_heldout_sequences, _MOST_CLOZE_TOKENS // length)
    try:
        heldout = read_heldout(config.data, length, num_available)
    except DataError as error:
        if tokenizer_file is None:
            raise
        heldout, problem = Heldout(np.zeros((0, length + 1), dtype=np.int64), math.nan, math.nan), error
    return EvaluationResources(
        tokenizer=tokenizer,
        heldout_sequences=heldout.sequences,
        heldout_documents=_documents(heldout.sequences, tokenizer),
        bytes_per_token=heldout.bytes_per_token,
        unigram_entropy=heldout.unigram_entropy_nats,
        sequence_tokens=length,
        lambada_path=Path(settings.lambada_path) if settings.lambada_path else None,
        num_heldout_sequences=settings.num_heldout_sequences,
        num_lambada_items=None if all_passages else settings.num_cloze_items,
        num_cloze_items=settings.num_cloze_items,
        needle_lengths=settings.needle_lengths,
        num_needle_items=settings.num_needle_items,
        trained_tokens=config.data.sequence_tokens,
        longest_tokens=config.model.max_length_tokens,
        context_multiples=settings.context_multiples,
        questions_directory=Path(settings.questions_directory) if settings.questions_directory else None,
        num_questions=settings.num_questions,
        has_separate_documents=config.data.documents == "separate",
        heldout_problem=problem,
    )


def _documents(sequences_NL: npt.NDArray[np.int64], tokenizer: Tokenizer) -> list[str]:
    stream = sequences_NL[:, :-1].ravel()
    pieces = np.split(stream, np.flatnonzero(stream == tokenizer.eos_id))
    return [tokenizer.decode(piece[piece != tokenizer.eos_id].tolist()) for piece in pieces if piece.size > 1]
