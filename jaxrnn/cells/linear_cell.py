"""What do cells share whose step is linear in the carry, number by number?"""

from collections.abc import Callable

from jax import Array

from jaxrnn.cells.base import Cell, Linear, Params, ParamSpec
from jaxrnn.cells.ops import affine_project
from jaxrnn.cells.params import zero_carry


def linear_cell(
    name: str,
    gates: int,
    param_specs: Callable[[int, int], dict[str, ParamSpec]],
    coefficients: Callable[[Params, Array], tuple[Array, Array]],
) -> Cell:
    """The cell whose step is h' = a * h + b.

    Args:
      name: of the cell.
      gates: blocks of features that stand side by side in `kernel`.
      param_specs: as in `Cell`; inputs are projected by `affine_project`.
      coefficients: `(params, projected) -> (a, b)`, as in `Linear`.
    """

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        a, b = coefficients(params, projected)
        return a * hidden + b

    return Cell(
        name=name,
        param_specs=param_specs,
        initial_carry=zero_carry(gates),
        project=affine_project,
        step=step,
        output=_output,
        linear=Linear(coefficients),
        diagonal=True,
    )


def _output(hidden: Array) -> Array:
    return hidden
