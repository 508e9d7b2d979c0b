"""How do a benchmark's numbers reach a reader? As those of every experiment do."""

import pathlib

from jaxrnn.report import markdown_table as markdown_table
from jaxrnn.report import new_figure as new_figure
from jaxrnn.report import save_figure as save_figure
from jaxrnn.report import write_records as write_json_lines  # noqa: F401

RESULTS = pathlib.Path(__file__).parents[1] / "results"
