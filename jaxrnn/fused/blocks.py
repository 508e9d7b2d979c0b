"""How does the step of a cell become CUDA? By its jaxpr, with features as threads.

A thread computes one feature. An array of n * features values, such as the gates of a
cell side by side, is n *parts*: in each part every thread has its own value. So
arithmetic becomes a line a part, and to cut, join or pad at a multiple of `features`
is bookkeeping that costs nothing. Where features meet, in a matmul or a sum, threads
exchange values by way of shared memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal


class Unsupported(Exception):
    """Why a step cannot become a kernel, as the end of a sentence."""


class Uniform(NamedTuple):
    """One value that all threads share, of any shape: `text` is C."""

    text: str


class Weight(NamedTuple):
    """One (features, features) part of a parameter, or its transpose."""

    param: str
    row: int
    column: int
    transposed: bool = False


class Blocks(NamedTuple):
    """An array in parts.

    Attributes:
      parts: an array of objects, one axis for each axis of the array: C for the value
        of this thread, or a `Weight`.
      units: how many elements of each axis a part holds: `features`, or 1.
    """

    parts: np.ndarray
    units: tuple[int, ...]


Value = Uniform | Blocks

ELEMENTS = {"float32": "float", "bfloat16": "bfloat16", "float64": "double"}
UNARY = {
    name: f"{name}({{}})"
    for name in (
        *(
            "tanh",
            "logistic",
            "exp",
            "exp2",
            "log",
            "log2",
            "log1p",
            "expm1",
            "sqrt",
            "rsqrt",
        ),
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
        *("acosh", "atanh", "erf", "erfc", "cbrt", "floor", "ceil", "sign"),
    )
} | {
    "abs": "fabs({})",
    "neg": "-{}",
    "not": "!{}",
    "square": "{0} * {0}",
    "one_minus_square": "1 - {0} * {0}",  # from JAX 0.12 on, as `unstack` and `log2`
    "is_finite": "{0} - {0} == 0",
    "copy": "{}",
    "copy_p": "{}",
    "stop_gradient": "{}",
}
OTHERS = {
    "add": "{} + {}",
    "add_any": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "max": "maximum({}, {})",
    "min": "minimum({}, {})",
    "pow": "pow({}, {})",
    "atan2": "atan2({}, {})",
    "rem": "fmod({}, {})",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "and": "{} && {}",
    "or": "{} || {}",
    "xor": "{} != {}",
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
ELEMENTWISE = {*UNARY, *OTHERS, "integer_pow", "convert_element_type"}
LOOPS = {"scan", "while", "cond"}
NOT_OF_INTEGERS = {"not", "and", "or", "xor", "pow", "clamp"}
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

    def run(self, closed: ClosedJaxpr, values: Sequence[Value | None]) -> list[Value]:
        """The outputs of a jaxpr; None stands for an input that is not in parts."""
        return self._run(closed.jaxpr, closed.consts, values)

    def _run(self, jaxpr: Any, consts: Any, values: Sequence[Value | None]) -> Any:
        env = dict(zip(jaxpr.invars, values, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = constant(const)

        def read(atom: Any) -> Value | None:
            return constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            found = self._apply(eqn, list(map(read, eqn.invars)))
            env.update(zip(eqn.outvars, found, strict=True))
        return list(map(read, jaxpr.outvars))

    def _apply(self, eqn: Any, values: list[Value | None]) -> list[Value]:
        name = eqn.primitive.name
        for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if inner in eqn.params and name not in LOOPS:
                inner = eqn.params[inner]
                jaxpr = inner.jaxpr if hasattr(inner, "consts") else inner
                return self._run(jaxpr, getattr(inner, "consts", ()), values)
        given = [value for value in values if value is not None]
        if len(given) < len(values):
            raise Unsupported("its step uses an array that is not whole features wide")
        if name in ("split", "unstack"):
            return getattr(self, f"_{name}")(eqn, *given)
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            if name not in ELEMENTWISE:
                raise Unsupported(f"its step uses `{name}`, for which there is no CUDA")
            handler = self._elementwise
        return [handler(eqn, *given)]

    # Arithmetic: a line a part.

    def _elementwise(self, eqn: Any, *values: Value) -> Value:
        name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
        blocks = [value for value in values if isinstance(value, Blocks)]
        if name == "convert_element_type":
            if c_type(dtype) == c_type(eqn.invars[0].aval.dtype):
                return values[0]
            template = f"({c_type(dtype)})({{}})"
        elif name == "integer_pow":
            template = power(eqn.params["y"])
        elif name in OF_INTEGERS and np.issubdtype(dtype, np.integer):
            template = OF_INTEGERS[name]
        else:
            template = (UNARY | OTHERS)[name]
        if name in NOT_OF_INTEGERS and np.issubdtype(dtype, np.integer):
            raise Unsupported(f"its step uses `{name}` of integers")
        if name == "select_n" and len(values) > 3:
            raise Unsupported("its step selects one of more than two arrays")
        if not blocks:
            texts = [value.text for value in values if isinstance(value, Uniform)]
            return Uniform(self.let(dtype, template.format(*texts)))

        def line(*parts: Any) -> str:
            if any(isinstance(part, Weight) for part in parts):
                raise Unsupported(
                    f"its step uses `{name}` of a matrix; a matrix can be multiplied "
                    "with, cut and transposed"
                )
            return self.let(dtype, template.format(*parts))

        shape = blocks[0].parts.shape
        if any(block.parts.shape != shape for block in blocks):
            raise Unsupported(f"its step uses `{name}` of arrays of different widths")
        grids = [
            value.parts if isinstance(value, Blocks) else np.full(shape, value.text)
            for value in values
        ]
        return Blocks(elementwise(line, *grids), blocks[0].units)

    def _reduce_precision(self, eqn: Any, value: Value) -> Value:
        """Nothing, with the bits that the dtype has; `jax.checkpoint` asks for it."""
        bits = jax.numpy.finfo(eqn.outvars[0].aval.dtype)
        if eqn.params["exponent_bits"] < bits.nexp or (
            eqn.params["mantissa_bits"] < bits.nmant
        ):
            raise Unsupported("its step rounds to fewer bits than its dtype has")
        return value

    # Bookkeeping.

    def _reshape(self, eqn: Any, value: Value) -> Value:
        """Axes of length 1 come and go."""
        if isinstance(value, Uniform):
            return value
        old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        if old == new:
            return value
        kept = [axis for axis, size in enumerate(old) if size != 1]
        if [old[axis] for axis in kept] != [size for size in new if size != 1]:
            raise Unsupported(f"its step reshapes {old} to {new}")
        lengths = iter([(value.parts.shape[a], value.units[a]) for a in kept])
        pairs = [(1, 1) if size == 1 else next(lengths) for size in new]
        shape, units = zip(*pairs, strict=True) if pairs else ((), ())
        return Blocks(value.parts.reshape(shape), units)

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, eqn: Any, value: Value) -> Value:
        if isinstance(value, Uniform):
            return value
        old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        axes = eqn.params["broadcast_dimensions"]
        if [new[axis] for axis in axes] != list(old):
            raise Unsupported(f"its step broadcasts {old} to {new}")
        shape, units = list(new), [1] * len(new)
        for axis, size, unit in zip(axes, value.parts.shape, value.units, strict=True):
            shape[axis], units[axis] = size, unit
        new_axes = [axis for axis in range(len(new)) if axis not in axes]
        parts = np.expand_dims(value.parts, new_axes)
        return Blocks(np.broadcast_to(parts, shape), tuple(units))

    def _transpose(self, eqn: Any, value: Value) -> Value:
        if isinstance(value, Uniform):
            return value
        order = eqn.params["permutation"]
        parts = value.parts.transpose(order)
        if order == (1, 0):
            parts = elementwise(turned, parts)
        return Blocks(parts, tuple(value.units[axis] for axis in order))

    def _slice(self, eqn: Any, value: Value) -> Value:
        if isinstance(value, Uniform):
            return value
        starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or (1,) * len(starts)
        if any(stride != 1 for stride in strides):
            raise Unsupported("its step takes every n-th feature")
        cut = tuple(
            slice(whole(start, unit), whole(limit, unit))
            for start, limit, unit in zip(starts, limits, value.units, strict=True)
        )
        return Blocks(value.parts[cut], value.units)

    def _split(self, eqn: Any, value: Value) -> list[Value]:
        axis, sizes = eqn.params["axis"], eqn.params["sizes"]
        if isinstance(value, Uniform):
            return [value] * len(sizes)
        lengths = [whole(size, value.units[axis]) for size in sizes]
        pieces = np.split(value.parts, np.cumsum(lengths)[:-1], axis)
        return [Blocks(piece, value.units) for piece in pieces]

    def _unstack(self, eqn: Any, value: Value) -> list[Value]:
        if isinstance(value, Uniform):
            return [value] * len(eqn.outvars)
        axis, units = eqn.params["axis"], list(value.units)
        if units.pop(axis) != 1:
            raise Unsupported("its step takes single features")
        return [
            Blocks(part, tuple(units)) for part in np.moveaxis(value.parts, axis, 0)
        ]

    def _concatenate(self, eqn: Any, *values: Value) -> Value:
        avals = [var.aval for var in eqn.invars]
        return self._joined(eqn.params["dimension"], values, avals)

    def _pad(self, eqn: Any, value: Value, padding: Value) -> Value:
        """With whole parts."""
        for axis, (low, high, between) in enumerate(eqn.params["padding_config"]):
            if between or low < 0 or high < 0:
                raise Unsupported("its step pads between features, or cuts by padding")
            shape = list(eqn.outvars[0].aval.shape)

            def side(size: Any, shape: list = shape, axis: int = axis) -> Any:
                shape = [*shape[:axis], int(size), *shape[axis + 1 :]]
                return jax.ShapeDtypeStruct(tuple(shape), np.float32)

            middle = side(shape[axis] - low - high)
            joined = [(side(low), padding), (middle, value), (side(high), padding)]
            joined = [(aval, part) for aval, part in joined if aval.shape[axis]]
            avals, parts = zip(*joined, strict=True)
            value = self._joined(axis, parts, avals)
        return value

    def _joined(self, axis: int, values: Sequence[Value], avals: Any) -> Value:
        blocks = [value for value in values if isinstance(value, Blocks)]
        if not blocks and len(set(values)) == 1:
            return values[0]
        units = blocks[0].units if blocks else (self.features,)
        grids = [
            self._in_parts(value, aval.shape, units).parts
            for value, aval in zip(values, avals, strict=True)
        ]
        return Blocks(np.concatenate(grids, axis), units)

    def _in_parts(
        self, value: Value, shape: tuple[int, ...], units: tuple[int, ...]
    ) -> Blocks:
        if isinstance(value, Blocks):
            return value
        counts = [whole(size, unit) for size, unit in zip(shape, units, strict=True)]
        return Blocks(np.full(counts, value.text, object), units)

    # Where features meet.

    def _reduce(self, eqn: Any, value: Value) -> Value:
        operator, neutral = REDUCTIONS[eqn.primitive.name]
        dtype = eqn.outvars[0].aval.dtype
        axes, shape = eqn.params["axes"], eqn.invars[0].aval.shape
        if isinstance(value, Uniform):
            many = np.prod([shape[axis] for axis in axes], dtype=int)
            if operator != "add" or many == 1:
                return value
            return Uniform(self.let(dtype, f"{value.text} * {many}"))
        over_threads = any(value.units[axis] == self.features for axis in axes)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        grid = value.parts.transpose(*kept, *axes)
        kept_shape = tuple(value.parts.shape[axis] for axis in kept)
        grid = grid.reshape(*kept_shape, -1)
        found = np.empty(kept_shape, object)
        for index in np.ndindex(kept_shape):
            total, *others = grid[index]
            for other in others:
                total = f"{operator}({total}, {other})"
            if over_threads:
                sums = f"sums_of_warps(parity, {self.reductions})"
                total = f"over_threads({operator}, {total}, {neutral}, place, {sums})"
                self.reductions += 1
            found[index] = self.let(dtype, total)
        if kept:
            return Blocks(found, tuple(value.units[axis] for axis in kept))
        return Uniform(found.item())

    _reduce_sum = _reduce_max = _reduce_min = _reduce

    def _dot_general(self, eqn: Any, left: Value, right: Value) -> Value:
        (of_left, of_right), batch = eqn.params["dimension_numbers"]
        dtype = eqn.outvars[0].aval.dtype
        if batch != ((), ()) or len(of_left) != 1:
            raise Unsupported("its step has a matmul with several axes of rows")
        avals = [var.aval for var in eqn.invars]
        (left, over), (right, other) = sorted(
            [(left, of_left[0]), (right, of_right[0])],
            key=lambda pair: isinstance(pair[0], Blocks) and pair[0].parts.ndim,
        )
        size = avals[0].shape[of_left[0]]
        vector = self._in_parts(left, (size,), (self.features,))
        if not isinstance(right, Blocks) or right.parts.ndim != 2 or over:
            raise Unsupported("its step has a matmul that is not vector times matrix")
        matrix = right.parts if other == 0 else elementwise(turned, right.parts.T)
        if len(vector.parts) != len(matrix) or not isinstance(matrix[0, 0], Weight):
            raise Unsupported("its step multiplies with a matrix that is no parameter")
        self._share(vector.parts)
        found = [self._multiplied(dtype, vector.parts, column) for column in matrix.T]
        return Blocks(np.array(found, object), (self.features,))

    def _share(self, parts: np.ndarray) -> None:
        """Lets every thread read these values of every other."""
        new = [part for part in dict.fromkeys(parts) if part not in self.buffers]
        for part in new:
            slot = self.buffers[part] = len(self.buffers)
            self.lines.append(f"share({part}, place, buffer(parity, {slot}));")
        if new:
            self.lines.append("sync();")

    def _multiplied(self, dtype: Any, parts: np.ndarray, column: np.ndarray) -> str:
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


def constant(value: Any) -> Uniform:
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
        return Uniform(f"({text[str(number)]})")
    return Uniform(f"({c_type(array.dtype)})({str(number).lower()})")


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


def turned(weight: Any) -> Any:
    """The transpose of a part of a matrix."""
    if not isinstance(weight, Weight):
        raise Unsupported("its step transposes a matrix that is no parameter")
    return weight._replace(transposed=not weight.transposed)


def whole(size: Any, unit: int) -> int:
    """How many parts a size is; it has to be whole ones."""
    if size % unit:
        raise Unsupported(f"its step cuts within {unit} features, at {size}")
    return int(size) // unit


def elementwise(function: Callable[..., Any], *grids: np.ndarray) -> np.ndarray:
    """`function` on every element of arrays of objects of one shape."""
    found = np.empty(grids[0].shape, object)
    for index in np.ndindex(found.shape):
        found[index] = function(*(grid[index] for grid in grids))
    return found
