"""How does the package meet the file system, and packages that may be missing?

Files are written whole or not at all, results as one JSON object a line, and what can
be made again lies in one folder of the user's. What a reader refuses is a `BadFile`.
"""

from jaxrnn.files.lines import Record as Record
from jaxrnn.files.lines import append_json_line as append_json_line
from jaxrnn.files.lines import append_line as append_line
from jaxrnn.files.lines import json_line as json_line
from jaxrnn.files.lines import read_json_lines as read_json_lines
from jaxrnn.files.lines import write_json_lines as write_json_lines
from jaxrnn.files.packages import optional as optional
from jaxrnn.files.refused import BadFile as BadFile
from jaxrnn.files.whole import Path as Path
from jaxrnn.files.whole import cache_folder as cache_folder
from jaxrnn.files.whole import replacing as replacing
