"""The templates in `cluster/`: every value a user can choose goes through a filter.

quote: a word of a shell; yaml: a string of YAML; block: a mapping of one text, as lines; literal: without the
references to variables that Kubernetes would replace.
"""

import json
import shlex
from functools import lru_cache
from typing import Any

import jinja2
import yaml

from sisa_scale.resources import resource_root


def render(template: str, **values: Any) -> str:
    """Fill in a template of `cluster/`, named relative to it; a missing value is an error."""
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_root("cluster")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="<#",  # {# stands in shell scripts
        comment_end_string="#>",
        autoescape=False,  # the outputs are shell and YAML, not HTML
    )
    environment.filters |= {
        "quote": shlex.quote,
        "yaml": json.dumps,
        "block": _block,
        "literal": lambda text: text.replace("$(", "$$("),
    }
    return environment


class _Lines(str):
    """Text that YAML shows as lines."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Lines` with | where YAML allows it, and in quotes where not."""


_Dumper.add_representer(_Lines, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def _block(text: str, name: str) -> str:
    return yaml.dump({name: _Lines(text)}, Dumper=_Dumper, allow_unicode=False).rstrip("\n")
