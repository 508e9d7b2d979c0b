"""On which sizes do the parts of `accelerator.py` measure? The tutorials' first.

Nothing here needs JAX: the part that times PyTorch reads it too.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """The sizes of one recurrent layer."""

    time: int
    batch: int
    features: int
    in_features: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


class Work(NamedTuple):
    """A cell at some sizes."""

    cell: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.cell} {self.shape}"


CELLS = ("simple_rnn", "lstm", "gru")
SMALL = (  # the reviews' models: 002, 001, 004b
    Shape(100, 128, 32, 32),
    Shape(500, 32, 32, 32),
    Shape(30, 128, 32, 16),
)
MIDDLE = (
    Shape(100, 128, 64, 64),
    Shape(100, 128, 128, 128),
    Shape(256, 64, 256, 256),
)
VERY_WIDE = Work("simple_rnn", Shape(100, 32, 1024, 1024))
WIDE_LSTM = Work("lstm", Shape(1000, 64, 512, 512))
EVERYTHING = [
    *(Work(cell, shape) for shape in SMALL[:2] for cell in CELLS),
    *(Work(cell, shape) for shape in MIDDLE for cell in CELLS),
    *(Work(cell, SMALL[2]) for cell in CELLS),
    VERY_WIDE,
    WIDE_LSTM,
]
SELECTION = [  # for what is tried beside float32 at its highest precision
    Work("simple_rnn", SMALL[1]),
    Work("lstm", SMALL[0]),
    Work("lstm", MIDDLE[1]),
    Work("simple_rnn", MIDDLE[2]),
    Work("lstm", MIDDLE[2]),
    WIDE_LSTM,
]
LOOPS = [  # where launches count for most
    Work("simple_rnn", SMALL[1]),
    Work("lstm", SMALL[0]),
    Work("gru", SMALL[0]),
    Work("lstm", MIDDLE[1]),
    Work("simple_rnn", MIDDLE[2]),
]
FEW_FEATURES = [
    *(Work(cell, SMALL[0]) for cell in CELLS),
    Work("simple_rnn", SMALL[1]),
    *(Work(cell, MIDDLE[0]) for cell in CELLS),
]
LONG = [
    Work("simple_rnn", Shape(10_000, 16, 32, 32)),
    Work("simple_rnn", Shape(100_000, 16, 32, 32)),
]
TINY = [Work(cell, Shape(5, 3, 4, 2)) for cell in CELLS]
