"""The text that comes with the package, for first steps and tests without a download."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from sisa_scale.data.build.pipeline import BuildProgress, build_dataset, is_heldout
from sisa_scale.data.build.texts.record_files import read_documents
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.tokenizer import train_tokenizer

# Small enough that the embedding does not dwarf the smallest models, and that each id is seen often in a million
# tokens; large enough that common English words are one token.
VOCAB_SIZE = 4096
BLOCK_TOKENS = 1 << 14
HELDOUT_FRACTION = 0.05
SEED = 0


def embedded_text() -> Path:
    """Return the file of English prose in the public domain that comes with the package."""
    return Path(__file__).parents[1] / "sample" / "gutenberg.jsonl.zst"


def build_embedded(
    out: Path, progress: Callable[[BuildProgress], None] | None = None, vocab_size: int = VOCAB_SIZE
) -> Manifest:
    """Build the embedded text into the new directory `out`: the same bytes each time.

    The tokenizer is trained on the training documents only, so another release of the `tokenizers` library may write
    another tokenizer file, and with it another fingerprint. Errors as `build_dataset`.
    """
    source = embedded_text()
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / f"gutenberg-{vocab_size}.tokenizer.json"
        texts = (document.text for document in read_documents([source]))
        train_tokenizer((text for text in texts if not is_heldout(text, HELDOUT_FRACTION, SEED)), vocab_size, tokenizer)
        return build_dataset(
            [source],
            tokenizer=tokenizer,
            out=out,
            block_tokens=BLOCK_TOKENS,
            heldout_fraction=HELDOUT_FRACTION,
            seed=SEED,
            progress=progress,
        )
