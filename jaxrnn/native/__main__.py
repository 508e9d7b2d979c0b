"""Which command compiles the native loops? `python -m jaxrnn.native`.

It prints where they are, whole and ready; where they were damaged it has made them
again.
"""

import os
import sys

from jaxrnn import native
from jaxrnn.native import store

try:
    path = native.library()
    before = store.fault(path) if os.path.lexists(path) else None
    native.build()
    native.load()
except RuntimeError as error:
    sys.exit(f"jaxrnn.native: {error}")
if before is not None:
    print(f"{before}: made again", file=sys.stderr)
print(path)
