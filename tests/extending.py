"""The worked examples of docs/extending*.md as installed packages."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOCUMENTS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"```\w+\n# (\S+)\n(.*?)```", re.DOTALL)


def files_of(section: str) -> dict[str, str]:
    """Return the files that a section of the documents writes, by path."""
    pages = (page.read_text(encoding="utf-8") for page in DOCUMENTS.glob("extending*.md"))
    (text,) = (
        page.partition(f"\n## {section}\n")[2].partition("\n## ")[0] for page in pages if f"\n## {section}\n" in page
    )
    return dict(_BLOCK.findall(text))


def listed_files(thing: str) -> set[str]:
    """Return the files that the document's table lists for a thing."""
    (row,) = re.findall(rf"^\| {thing} \|(.*)$", (DOCUMENTS / "extending.md").read_text(encoding="utf-8"), re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", row))


def install(section: str, folder: Path) -> str:
    """Write the files of a section and the entry point of their package into a folder; return the package's name."""
    for path, content in files_of(section).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    (package,) = {path.partition("/")[0] for path in files_of(section) if "/" in path}
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[sisa_scale.extensions]\n{package} = {package}\n", encoding="utf-8")
    return package


@contextmanager
def importable(folder: Path, package: str) -> Iterator[None]:
    """Let this process import the package, and forget it afterwards."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
