"""How does the step of a cell become CUDA? By its jaxpr, with features as threads.

A thread computes one feature. An array of n * features numbers, such as the gates of a
cell side by side, is n *parts*: of each part every thread has its own number. So
arithmetic becomes a line a part, and to cut, join or pad at a multiple of `features`
is bookkeeping that costs nothing. Where features meet, in a matmul or a sum, threads
exchange numbers by way of shared memory.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal


class Unsupported(Exception):
    """Why a step cannot become a kernel, as the end of a sentence."""


class Weight(NamedTuple):
    """One (features, features) part of a parameter, or its transpose."""

    param: str
    row: int
    column: int
    transposed: bool = False


# An array of a step: C for the one number that all of it is, or else its parts. Those
# are an array of objects with the same axes: `Weight`s, or C for the number of this
# thread. Along an axis a part is `features` wide or one, and C along one axis at most.
Value = str | np.ndarray

ELEMENTS = {"float32": "float", "bfloat16": "bfloat16", "float64": "double"}
FUNCTIONS = (
    *("tanh", "logistic", "exp", "exp2", "log", "log2", "log1p", "expm1", "sqrt"),
    *("rsqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
    *("acosh", "atanh", "erf", "erfc", "cbrt", "floor", "ceil", "sign"),
)
OPERATORS = (
    *(("add", "+"), ("add_any", "+"), ("sub", "-"), ("mul", "*"), ("div", "/")),
    *(("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")),
    *(("and", "&&"), ("or", "||"), ("xor", "!=")),
)
ELEMENTWISE = {
    **{name: f"{name}({{}})" for name in FUNCTIONS},
    **{name: f"{{}} {operator} {{}}" for name, operator in OPERATORS},
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), "{}"),
    "abs": "fabs({})",
    "neg": "-{}",
    "not": "!{}",
    "square": "{0} * {0}",
    "one_minus_square": "1 - {0} * {0}",  # from JAX 0.12 on, as `unstack` and `log2`
    "is_finite": "{0} - {0} == 0",
    "max": "maximum({}, {})",
    "min": "minimum({}, {})",
    "pow": "pow({}, {})",
    "atan2": "atan2({}, {})",
    "rem": "fmod({}, {})",
    "select_n": "{0} ? {2} : {1}",
    "clamp": "minimum(maximum({1}, {0}), {2})",
}
OF_INTEGERS = {  # where C has another word for them, or none
    "abs": "{0} < 0 ? -{0} : {0}",
    "sign": "({0} > 0) - ({0} < 0)",
    "max": "{0} > {1} ? {0} : {1}",
    "min": "{0} < {1} ? {0} : {1}",
    "rem": "{} % {}",
}
NOT_OF_INTEGERS = {"not", "and", "or", "xor", "pow", "clamp"}
CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
CALLS += ("custom_jvp_call", "custom_vjp_call")
REDUCTIONS = {
    "reduce_sum": ("add", "(real)0"),
    "reduce_max": ("maximum", "-infinity"),
    "reduce_min": ("minimum", "infinity"),
}


@dataclasses.dataclass
class Body:
    """The lines of a step, and what they ask of the kernel around them.

    Attributes:
      features: the width of a part.
      lines: C, in order; every value is a constant of its own.
      weights: the parts of parameters that are multiplied with, in the order met.
      buffers: vectors in shared memory, by the C of the thread's own element.
      reductions: how many sums over threads there are.
      double: whether it computes in float64.
    """

    features: int
    lines: list[str] = dataclasses.field(default_factory=list)
    weights: list[Weight] = dataclasses.field(default_factory=list)
    buffers: dict[str, int] = dataclasses.field(default_factory=dict)
    reductions: int = 0
    double: bool = False
    names: int = 0

    def let(self, dtype: Any, text: str) -> str:
        """A line that names a value; returns the name."""
        self.names += 1
        name = f"v{self.names}"
        self.double |= dtype == np.float64
        self.lines.append(f"const {c_type(dtype)} {name} = {text};")
        return name

    def run(self, closed: Any, values: Sequence[Value | None]) -> Any:
        """The outputs of a jaxpr; None stands for an input that is not in parts."""
        jaxpr, consts = closed, ()  # as it is inside of `jax.checkpoint`
        if isinstance(closed, ClosedJaxpr):
            jaxpr, consts = closed.jaxpr, closed.consts
        env = dict(zip(jaxpr.invars, values, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = constant(const)

        def read(atom: Any) -> Value | None:
            return constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            found = self._apply(eqn, list(map(read, eqn.invars)))
            env.update(zip(eqn.outvars, found, strict=True))
        return list(map(read, jaxpr.outvars))

    def _apply(self, eqn: Any, values: list[Any]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name in CALLS:
            inner = next(key for key in eqn.params if key.endswith("jaxpr"))
            return self.run(eqn.params[inner], values)
        if any(value is None for value in values):
            raise Unsupported("its step uses an array that is not whole features wide")
        if name in MOVES:
            found = self._moved(eqn, values)
        elif name in ELEMENTWISE or name in ("integer_pow", "convert_element_type"):
            found = [self._elementwise(eqn, *values)]
        elif name == "broadcast_in_dim":
            found = [self._broadcast_in_dim(eqn, *values)]
        elif name == "reduce_precision":
            found = [keeps_precision(eqn, *values)]
        elif name in REDUCTIONS:
            found = [self._reduce(eqn, *values)]
        elif name == "dot_general":
            found = [self._dot_general(eqn, *values)]
        else:
            raise Unsupported(f"its step uses `{name}`, for which there is no CUDA")
        return [
            one_number(value, var.aval.shape)
            for var, value in zip(eqn.outvars, found, strict=True)
        ]

    def _elementwise(self, eqn: Any, *values: Value) -> Value:
        """A line a part."""
        name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
        of_integers = np.issubdtype(dtype, np.integer)
        if name == "convert_element_type":
            if c_type(dtype) == c_type(eqn.invars[0].aval.dtype):
                return values[0]
            template = f"({c_type(dtype)})({{}})"
        elif name == "integer_pow":
            template = power(eqn.params["y"])
        else:
            template = (ELEMENTWISE | OF_INTEGERS if of_integers else ELEMENTWISE)[name]
        if name in NOT_OF_INTEGERS and of_integers:
            raise Unsupported(f"its step uses `{name}` of integers")
        if name == "select_n" and len(values) > 3:
            raise Unsupported("its step selects one of more than two arrays")
        if len({value.shape for value in values if not isinstance(value, str)}) > 1:
            raise Unsupported(f"its step uses `{name}` of arrays of different widths")

        def line(*parts: Any) -> str:
            return self.let(dtype, template.format(*no_matrix(name, *parts)))

        return np.frompyfunc(line, len(values), 1)(*values)

    def _moved(self, eqn: Any, values: Sequence[Value]) -> Sequence[Value]:
        """Bookkeeping."""
        if all(isinstance(value, str) and value == values[0] for value in values):
            return [values[0]] * len(eqn.outvars)
        name, shapes = eqn.primitive.name, [var.aval.shape for var in eqn.invars]
        known = [
            units_of(value, shape)
            for value, shape in zip(values, shapes, strict=True)
            if not isinstance(value, str)
        ] or [[*[1] * (len(shapes[0]) - 1), self.features]]
        if any(units != known[0] for units in known):
            raise Unsupported(f"its step uses `{name}` of arrays of different widths")
        grids = [
            in_parts(value, shape, known[0]) if shape else value
            for value, shape in zip(values, shapes, strict=True)
        ]
        return MOVES[name](eqn, known[0], *grids)

    def _broadcast_in_dim(self, eqn: Any, value: Value) -> Value:
        """As often as wanted; a number that all threads have fills axes of features."""
        if isinstance(value, str):
            return value
        old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        units, counts = units_of(value, old), list(new)
        axes = eqn.params["broadcast_dimensions"]
        for axis, unit in zip(axes, units, strict=True):
            counts[axis] //= unit
        added = [axis for axis in range(len(new)) if axis not in axes]
        grid = np.expand_dims(value, added)
        wide = [
            axis
            for axis, (one, many) in enumerate(zip(grid.shape, new, strict=True))
            if one == 1 < many and many % self.features == 0
        ]
        if wide and set(units) <= {1}:
            counts[wide[-1]] //= self.features
        return np.broadcast_to(grid, counts)

    # Where features meet.

    def _reduce(self, eqn: Any, value: Value) -> Value:
        name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
        axes, shape = eqn.params["axes"], eqn.invars[0].aval.shape
        if isinstance(value, str):
            many = np.prod([shape[axis] for axis in axes], dtype=int)
            if name != "reduce_sum" or many == 1:
                return value
            return self.let(dtype, f"{value} * {many}")
        units = units_of(value, shape)
        meet = any(units[axis] == self.features for axis in axes)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        grid = value.transpose(*axes, *kept)
        grid = grid.reshape(-1, *grid.shape[len(axes) :])
        total = functools.partial(self._total, name, dtype, meet)
        return np.frompyfunc(total, len(grid), 1)(*grid)

    def _total(self, name: str, dtype: Any, meet: bool, *parts: Any) -> str:
        """Of several parts; where features `meet`, of all threads too."""
        operator, neutral = REDUCTIONS[name]
        total, *others = no_matrix(name, *parts)
        for other in others:
            total = f"{operator}({total}, {other})"
        if meet:
            sums = f"sums_of_warps(parity, {self.reductions})"
            total = f"over_threads({operator}, {total}, {neutral}, place, {sums})"
            self.reductions += 1
        return self.let(dtype, total)

    def _dot_general(self, eqn: Any, *values: Value) -> Value:
        contracted, batch = eqn.params["dimension_numbers"]
        if batch != ((), ()) or len(contracted[0]) > 1:
            raise Unsupported("its step has a matmul of many, or over several axes")
        factors = []
        for value, var, axes in zip(values, eqn.invars, contracted, strict=True):
            shape, (axis,) = var.aval.shape, axes or (len(var.aval.shape),)
            if not axes:  # an outer product, as of a number with a vector
                value = value if isinstance(value, str) else value[..., None]
                shape = (*shape, 1)
            factors.append((value, shape, axis))
        units = [
            (unit, i == axis)
            for value, shape, axis in factors
            if not isinstance(value, str)
            for i, unit in enumerate(units_of(value, shape))
        ]
        if sum(unit != 1 and not summed for unit, summed in units) > 1:
            raise Unsupported("its step has a matmul that makes a matrix")
        unit = max([unit for unit, summed in units if summed], default=1)
        left, right = (contracted_last(unit, *factor) for factor in factors)
        if left.shape[-1] != right.shape[-1]:
            raise Unsupported("its step has a matmul of arrays of different widths")
        dtype, meet = eqn.outvars[0].aval.dtype, unit == self.features
        found = np.empty(left.shape[:-1] + right.shape[:-1], object)
        for i in np.ndindex(left.shape[:-1]):
            for j in np.ndindex(right.shape[:-1]):
                found[i + j] = self._product(dtype, meet, left[i], right[j])
        return found

    def _product(self, dtype: Any, meet: bool, left: Any, right: Any) -> str:
        """Of a vector with another, or with a column of a parameter."""
        if isinstance(left[0], Weight):
            left, right = right, left
        if isinstance(right[0], Weight):
            return self._sum(dtype, no_matrix("dot_general", *left), right)
        pairs = zip(left, right, strict=True)
        products = [self.let(dtype, f"{x} * {y}") for x, y in pairs]
        return self._total("reduce_sum", dtype, meet, *products)

    def _sum(self, dtype: Any, parts: Sequence[str], column: np.ndarray) -> str:
        new = [part for part in dict.fromkeys(parts) if part not in self.buffers]
        for part in new:  # which every thread reads of every other
            slot = self.buffers[part] = len(self.buffers)
            self.lines.append(f"share({part}, place, buffer(parity, {slot}));")
        if new:
            self.lines.append("sync();")
        self.names += 1
        sums = f"sum{self.names}"
        self.lines.append(f"Sum {sums};")
        for part, weight in zip(parts, column, strict=True):
            if weight not in self.weights:
                self.weights.append(weight)
            number, slot = self.weights.index(weight), self.buffers[part]
            self.lines.append(
                f"{sums}.add(buffer(parity, {slot}), place, w{number}, rest({number}));"
            )
        return self.let(dtype, f"{sums}.total()")


def no_matrix(name: str, *parts: Any) -> Sequence[str]:
    """The parts, which are none of a matrix."""
    if any(isinstance(part, Weight) for part in parts):
        raise Unsupported(
            f"its step uses `{name}` of a matrix; a matrix can be multiplied with, "
            "cut and transposed"
        )
    return parts


# Bookkeeping: from parts to parts. Units are how many numbers of each axis a part has.


def units_of(parts: np.ndarray, shape: Sequence[int]) -> list[int]:
    """`features` or 1, for each axis of an array."""
    return [size // count for size, count in zip(shape, parts.shape, strict=True)]


def whole(size: Any, unit: int) -> int:
    """How many parts a size is; it has to be whole ones."""
    if size % unit:
        raise Unsupported(f"its step cuts within {unit} features, at {size}")
    return int(size) // unit


def in_parts(value: Value, shape: Sequence[int], units: Sequence[int]) -> np.ndarray:
    """The one number of an array, as often as it has parts."""
    if isinstance(value, str):
        return np.full(list(map(whole, shape, units)), value, object)
    return value


def contracted_last(
    unit: int, value: Value, shape: Sequence[int], axis: int
) -> np.ndarray:
    """The parts of a factor, those that are summed over last."""
    units = [unit if i == axis else 1 for i in range(len(shape))]
    parts = in_parts(value, shape, units)
    return np.moveaxis(turned(parts) if axis == 1 else parts, axis, -1)


def one_number(value: Value, shape: Sequence[int]) -> Value:
    """C alone for an array of one number, which is the same to every thread."""
    if math.prod(shape) > 1 or isinstance(value, str):
        return value
    return value.item() if isinstance(value.item(), str) else value


def _reshape(eqn: Any, units: list[int], grid: np.ndarray) -> Sequence[Value]:
    """Axes of length 1 come and go; numbers along one axis find room in several."""
    old, new = ([*x.aval.shape] for x in (eqn.invars[0], eqn.outvars[0]))
    kept = [size for size in new if size != 1]
    units = [unit for unit, size in zip(units, old, strict=True) if size != 1]
    if kept != [size for size in old if size != 1]:
        *others, last = units
        if any(unit != 1 for unit in others) or kept[-1] % last:
            raise Unsupported(f"its step reshapes {(*old,)} to {(*new,)}")
        units = [*[1] * (len(kept) - 1), last]
    of_kept = iter(units)
    return [grid.reshape([1 if size == 1 else size // next(of_kept) for size in new])]


def _transpose(eqn: Any, units: list[int], grid: np.ndarray) -> Sequence[Value]:
    order = eqn.params["permutation"]
    wide = [axis for axis in order if units[axis] != 1]
    grid = grid.transpose(order)
    return [turned(grid) if wide != sorted(wide) else grid]


def turned(grid: np.ndarray) -> np.ndarray:
    """Where parts of a matrix have been transposed: each within itself."""

    def turn(part: Any) -> Any:
        if isinstance(part, str):
            return part
        return part._replace(transposed=not part.transposed)

    return np.frompyfunc(turn, 1, 1)(grid)


def _slice(eqn: Any, units: list[int], grid: np.ndarray) -> Sequence[Value]:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or [1] * len(starts)
    if any(s != 1 != unit for s, unit in zip(strides, units, strict=True)):
        raise Unsupported("its step takes every n-th feature")
    edges = (list(map(whole, edge, units)) for edge in (starts, limits))
    return [grid[tuple(map(slice, *edges, strides))]]


def _split(eqn: Any, units: list[int], grid: np.ndarray) -> Sequence[Value]:
    axis = eqn.params["axis"]
    lengths = [whole(size, units[axis]) for size in eqn.params["sizes"]]
    return np.split(grid, np.cumsum(lengths)[:-1], axis)


def _unstack(eqn: Any, units: list[int], grid: np.ndarray) -> Sequence[Value]:
    axis = eqn.params["axis"]
    if units[axis] != 1:
        raise Unsupported("its step takes single features")
    return [*np.moveaxis(grid, axis, 0)]


def _concatenate(eqn: Any, units: list[int], *grids: np.ndarray) -> Sequence[Value]:
    del units
    return [np.concatenate(grids, eqn.params["dimension"])]


def _pad(eqn: Any, units: list[int], grid: np.ndarray, padding: str) -> Sequence[Value]:
    sides = eqn.params["padding_config"]
    if any(between for _, _, between in sides):
        raise Unsupported("its step pads between features")
    counts = [
        (whole(low, unit), whole(high, unit))
        for (low, high, _), unit in zip(sides, units, strict=True)
    ]
    added = [(max(low, 0), max(high, 0)) for low, high in counts]
    grid = np.pad(grid, added, constant_values=padding)
    cut = [  # where there is less than nothing to add
        slice(max(-low, 0), size + min(high, 0))
        for (low, high), size in zip(counts, grid.shape, strict=True)
    ]
    return [grid[tuple(cut)]]


MOVES = {
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "transpose": _transpose,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "concatenate": _concatenate,
    "pad": _pad,
}

# Words of C.


def keeps_precision(eqn: Any, value: Value) -> Value:
    """As it is, with the bits that the dtype has; `jax.checkpoint` asks for it."""
    bits = jax.numpy.finfo(eqn.outvars[0].aval.dtype)
    given = eqn.params["exponent_bits"], eqn.params["mantissa_bits"]
    if given[0] < bits.nexp or given[1] < bits.nmant:
        raise Unsupported("its step rounds to fewer bits than its dtype has")
    return value


def constant(value: Any) -> str:
    """A literal, or a constant that the step closes over."""
    if isinstance(value, Tracer):
        raise Unsupported(
            "its step closes over an argument of a transformed function, such as "
            "`jax.jit`; make it a parameter"
        )
    array = np.asarray(value)
    if array.size != 1:
        raise Unsupported(
            f"its step closes over an array of shape {array.shape}; make it a parameter"
        )
    number = array.item()
    if isinstance(number, float) and not np.isfinite(number):
        text = {"nan": "not_a_number", "inf": "infinity", "-inf": "-infinity"}
        return f"({text[str(number)]})"
    return f"({c_type(array.dtype)})({str(number).lower()})"


def c_type(dtype: Any) -> str:
    """What a value is computed in; all floating point is `real`."""
    if dtype == np.bool_:
        return "bool"
    if jax.numpy.dtype(dtype).name in ELEMENTS:
        return "real"
    if dtype in (np.int32, np.int64):
        return "int" if dtype == np.int32 else "long long"
    raise Unsupported(f"its step computes in {dtype}")


def power(exponent: int) -> str:
    """x^n as a product."""
    product = " * ".join(["{0}"] * abs(exponent)) or "1"
    return product if exponent >= 0 else f"1 / ({product})"
