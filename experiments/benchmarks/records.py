"""How do a benchmark's numbers reach a reader? As those of every experiment do."""

import pathlib
import sys

from jaxrnn.files import write_json_lines as write_json_lines

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from report import color_of as color_of
from report import markdown_table as markdown_table
from report import new_figure as new_figure
from report import save_figure as save_figure
from report import when as when

RESULTS = pathlib.Path(__file__).parents[1] / "results"
