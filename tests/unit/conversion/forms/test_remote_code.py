"""Our modules, copied flat for `transformers`."""

import ast

import pytest

from sisa_scale.conversion.forms.remote_code import flat_name, flatten, imported_modules, remote_files


def test_files_import_each_other_and_nothing_of_ours() -> None:
    files = remote_files()
    assert {"modeling_sisa_scale.py", "configuration_sisa_scale.py", "models_decoder.py", "errors.py"} <= set(files)
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert f"{node.module}.py" in files, name
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("sisa_scale", "deepspeed", "ray", "yaml")), name
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("sisa_scale") for alias in node.names), name


def test_only_imports_change() -> None:
    source = (
        '"""Says sisa_scale.models."""\nfrom sisa_scale.models.block import (\n    A,\n)\n    \nx = "from sisa_scale"\n'
    )
    assert flatten(source, "m") == source.replace("from sisa_scale.models.block", "from .models_block")
    assert flat_name("sisa_scale.errors") == "errors"
    nested = "def f():\n    from sisa_scale.models.block import A\n    return A\n"
    assert "    from .models_block import A" in flatten(nested, "m")
    assert imported_modules(nested, "m") == ["sisa_scale.models.block"]


@pytest.mark.parametrize(
    "source", ["import sisa_scale\n", "import sisa_scale.models.block as b\n", "from sisa_scale import errors\n"]
)
def test_other_forms_of_import_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="cannot be copied"):
        flatten(source, "sisa_scale.models.x")
