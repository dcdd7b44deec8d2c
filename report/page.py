"""HTML pages from the templates beside this file: self-contained, for light and dark, readable on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

import atomic

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **content: Any) -> str:
    """Fill a template of `report/templates/`.

    Raises:
        jinja2.UndefinedError: the template names something that `content` lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: f"{value:.4f}"
    environment.filters["gain"] = lambda value: f"{value:+.6f}"
    environment.filters["interval"] = lambda pair: f"{pair[0]:.4f} … {pair[1]:.4f}"
    environment.filters["gain_interval"] = lambda pair: f"{pair[0]:+.6f} … {pair[1]:+.6f}"
    return environment.get_template(template).render(**content)


def write(path: Path, template: str, **content: Any) -> None:
    """Render a template to `path`, whole or not at all."""
    atomic.write_text(path, render(template, **content))
