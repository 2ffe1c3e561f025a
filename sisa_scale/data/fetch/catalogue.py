"""What `sisa-scale data fetch` knows by name. Sizes and licences are those that the sources state."""

from collections.abc import Mapping
from dataclasses import dataclass

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a data set at the Hugging Face Hub, whose listing gives their sizes and SHA-256.

    repo: OWNER/NAME; folder: inside it; suffix: how names end.
    """

    repo: str
    folder: str
    suffix: str


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file at an address, with its SHA-256."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to fetch. size: about, in words."""

    kind: str
    what: str
    size: str
    licence: str
    files: HubFiles | WebFile


CATALOGUE: Mapping[str, Entry] = {
    "gpt-neox": Entry(
        "tokenizer",
        "tokenizer of GPT-NeoX-20B and of the SISA paper, 50,277 ids",
        "2.5 MB",
        "Apache-2.0",
        WebFile(
            f"{HUB}/EleutherAI/gpt-neox-20b/resolve/main/tokenizer.json",
            "56ac4821e129d2c520fdaba60abd920fa852ada51b45c0dd52bbb6bd8c985ade",
        ),
    ),
    "tinystories": Entry(
        "corpus",
        "short stories in simple English, written by models (arXiv 2305.07759)",
        "1 GB, 0.5 billion tokens",
        "CDLA-Sharing-1.0",
        HubFiles("roneneldan/TinyStories", "data", ".parquet"),
    ),
    "wikitext-103": Entry(
        "corpus",
        "good and featured articles of Wikipedia (arXiv 1609.07843)",
        "0.3 GB, 0.1 billion tokens",
        "CC BY-SA 4.0",
        HubFiles("Salesforce/wikitext", "wikitext-103-raw-v1", ".parquet"),
    ),
    "wikipedia-en": Entry(
        "corpus",
        "English Wikipedia of November 2023",
        "12 GB, 4 billion tokens",
        "CC BY-SA 4.0",
        HubFiles("wikimedia/wikipedia", "20231101.en", ".parquet"),
    ),
    "fineweb-edu-10bt": Entry(
        "corpus",
        "educational web pages, sample of 10 billion tokens (arXiv 2406.17557)",
        "28 GB, 10 billion tokens",
        "ODC-By 1.0",
        HubFiles("HuggingFaceFW/fineweb-edu", "sample/10BT", ".parquet"),
    ),
}
