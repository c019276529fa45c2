"""Results -> one self-contained HTML page: no scripts, nothing loaded. Pure; Jinja escapes everything it is given."""

from __future__ import annotations

import functools

import jinja2

from scoot.coordinator.report.plot import make_chart
from scoot.coordinator.report.results import Results
from scoot.coordinator.report.summary import summarise


@functools.cache
def _environment() -> jinja2.Environment:
    """Compiled once; it has no state that rendering changes."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("scoot.coordinator.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_html(results: Results) -> str:
    """The report as an HTML page."""
    template = _environment().get_template("report.html.j2")
    return template.render(results=results, summary=summarise(results), chart=make_chart(results))
