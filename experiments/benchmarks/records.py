"""How do a benchmark's numbers reach a reader? As those of every experiment do."""

import pathlib
import sys

from jaxrnn.files import write_json_lines as write_json_lines

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from report import BLACK as BLACK
from report import BLUE as BLUE
from report import GREY as GREY
from report import ORANGE as ORANGE
from report import PINK as PINK
from report import SKY as SKY
from report import markdown_table as markdown_table
from report import new_figure as new_figure
from report import save_figure as save_figure

RESULTS = pathlib.Path(__file__).parents[1] / "results"
