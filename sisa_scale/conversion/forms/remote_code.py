"""The code that a Hugging Face directory carries: our own modules, copied flat, so that a user needs no sisa_scale.

`transformers` imports remote code from files of one directory with relative imports between them. A module
sisa_scale.models.decoder becomes models_decoder.py, and its imports of other modules become relative ones, and so do
places (`config.places`). The entry imports what stands at places, so that `transformers` finds the files; nothing else
changes.
"""

import ast
import importlib.util
import re
from pathlib import Path

ENTRY = "sisa_scale.conversion.hub.modeling_sisa_scale"
_PACKAGE = "sisa_scale."
_ENTRY_PACKAGE = "sisa_scale.conversion.hub."
_PLACE = re.compile(r'"sisa_scale\.([\w.]+):(\w+)"')
_IMPORT = re.compile(r"^(\s*)from sisa_scale\.([\w.]+) import ", re.MULTILINE)


def remote_files(entry: str = ENTRY) -> dict[str, str]:
    """Return the text of every file by its name: the entry's and all that it imports of ours, directly or not."""
    files: dict[str, str] = {}
    placed: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        name = f"{flat_name(module)}.py"
        if name not in files:
            source = _source(module)
            files[name] = flatten(source, module)
            waiting += imported_modules(source, module)
            own = {f"{_PACKAGE}{place}": name for place, name in _PLACE.findall(source)}
            waiting += own
            placed |= own
    imports = [f"from .{flat_name(module)} import {name} as _{name}  # noqa: F401\n" for module, name in placed.items()]
    files[f"{flat_name(entry)}.py"] += "".join(sorted(imports))
    return dict(sorted(files.items()))


def flat_name(module: str) -> str:
    """Return the name of a module's copy: sisa_scale.models.decoder is models_decoder."""
    if module.startswith(_ENTRY_PACKAGE):
        return module.removeprefix(_ENTRY_PACKAGE)
    return module.removeprefix(_PACKAGE).replace(".", "_")


def flatten(source: str, module: str) -> str:
    """Return the source with imports of our modules made relative."""
    flat = _IMPORT.sub(lambda match: f"{match[1]}from .{flat_name(_PACKAGE + match[2])} import ", source)
    flat = _PLACE.sub(lambda match: f'".{flat_name(_PACKAGE + match[1])}:{match[2]}"', flat)
    if any(_ours(node) for node in ast.walk(ast.parse(flat))):
        raise ValueError(f"{module} imports sisa_scale in a form that cannot be copied")
    return flat


def imported_modules(source: str, module: str) -> list[str]:
    """Return our modules that a source imports from, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE):
            assert node.module is not None
            if not _file(node.module).name.startswith("__init__"):
                found.append(node.module)
                continue
            raise ValueError(f"{module}:{node.lineno} imports from the package {node.module}; name the module")
    return found


def _ours(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and (node.module or "").partition(".")[0] == "sisa_scale"
    return isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "sisa_scale" for alias in node.names)


def _source(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)
