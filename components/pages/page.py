"""Fills the templates of pages."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.pages import formats
from components.pages.charts import Figure

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: Path, view: object, parts: Sequence[Path] = ()) -> str:
    """Return a page as HTML that needs nothing else: no file, no network, no script.

    Args:
        template: The page's template, which extends `base.html.j2`; what lies beside it can be included.
        view: What the template shows, as `view`; every text in it is escaped.
        parts: Further folders whose templates it includes.
    """
    return _environment(template.parent, *parts).get_template(template.name).render(view=view)


def render_picture(title: str, figures: Sequence[Figure]) -> str:
    """Return charts one below the other as an SVG file of its own."""
    return _environment().get_template("figures.svg.j2").render(title=title, figures=figures)


@cache  # with its templates, which cost more to compile than to fill
def _environment(*folders: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(points=formats.points, interval=formats.interval)
    return environment
