"""Render a page from the templates of giveback_lab: one file that loads nothing else.

Every value is escaped. A name that a template uses but was not given raises an error.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from giveback.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_TEMPLATES = Environment(
    loader=PackageLoader("giveback_lab"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def render(template: str, **values: object) -> str:
    """Return the page that the template makes of the values."""
    return _TEMPLATES.get_template(template).render(**values)


def script(template: str) -> tuple[Markup, str]:
    """Return a script as it stands in a page, and the digest by which the page's policy names it."""
    text = render(template)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    # The script is one of our own files, and no value is put into it.
    return Markup(text), digest  # noqa: S704


def write_page(page: str, path: Path) -> Path:
    """Write a page as UTF-8. Raises InputError if `path` cannot be written."""
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: name a folder that can be written") from error
    return path
