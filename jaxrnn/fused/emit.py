"""What does a kernel of `Fused` look like? CUDA around the step of a cell.

One kernel goes forward: to the carries, and the residuals that the adjoint wants to
find again. One goes back: from the cotangents of the carries to delta. The step in the
middle of each is the cell's own `Adjoint`, see `blocks.py`; mask, resets and the order
of time are lines around it, the same for every cell.
"""

import functools
import importlib.resources
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxrnn.cells.base import Adjoint, Cell
from jaxrnn.fused.blocks import (
    ELEMENTS,
    Body,
    Unsupported,
    Value,
    Weight,
    one_number,
)
from jaxrnn.fused.plan import SHARED_BYTES, Plan, plan

PRELUDE = importlib.resources.files("jaxrnn.fused").joinpath("prelude.cu").read_text()
SOURCE = string.Template("""\
using real = $real;
$constants
constexpr bool BACKWARDS = $backwards;
$prelude
extern "C" __global__ void __launch_bounds__(THREADS, 1) $name(
    $arguments) {
  const Block block(sizes);
  const Place place;
  clear_buffers();
  $head
  for (int turn = 0; turn < block.time; turn += AHEAD) {
#pragma unroll
    for (int slot = 0; slot < AHEAD; ++slot) {
      const int n = turn + slot;
      if (n >= block.time) break;
      const int t = block.step(n), parity = n & 1;
      $lines
    }
  }
  $tail
}
""")
OF_ROW, OF_STEP, OF_LAST_STEP = "blockIdx.x", "block.at(t)", "block.at(block.time - 1)"


class Tree(NamedTuple):
    """The shapes and dtypes of a pytree."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @classmethod
    def of(cls, tree: Any, axes: int = 0) -> "Tree":
        """Without the first `axes` axes of every leaf, those of time and batch."""
        leaves, structure = jax.tree.flatten(tree)
        structs = (jax.ShapeDtypeStruct(x.shape[axes:], x.dtype) for x in leaves)
        return cls(tuple(structs), structure)

    def tree(self) -> Any:
        """The pytree, of `jax.ShapeDtypeStruct`."""
        return jax.tree.unflatten(self.structure, self.leaves)


class Problem(NamedTuple):
    """What kernels depend on; they serve any time, batch and number of models.

    Attributes:
      cell: the cell to run.
      adjoint: its own, or one that was derived.
      params: a dict, where an array that `cell.noise` drew has no axes of the batch.
      carry: of one row.
      projected: what `cell.project` returns for one step of one row.
      mask: whether there is one.
      resets: whether there are some.
      threads_per_feature: see `plan`.
      shared_bytes: that one block may take, of the GPU at hand.
    """

    cell: Cell
    adjoint: Adjoint
    params: Tree
    carry: Tree
    projected: Tree
    mask: bool
    resets: bool
    threads_per_feature: int | None = None
    shared_bytes: int = SHARED_BYTES

    @property
    def features(self) -> int:
        """The width of the hidden vector."""
        return self.carry.leaves[-1].shape[-1]

    def param(self, name: str) -> str:
        """A parameter in C, whatever its name in Python is."""
        number = list(self.params.tree()).index(name)
        return f"param{number}_{re.sub('[^A-Za-z0-9]', '_', name)}"


class Output(NamedTuple):
    """An array that a kernel writes, at every step or once for every row."""

    name: str
    at_steps: bool
    leaf: jax.ShapeDtypeStruct


class Kernel(NamedTuple):
    """A kernel, and the arrays that it takes and writes, by name and in this order."""

    name: str
    source: str
    plan: Plan
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]


@functools.lru_cache(maxsize=256)
def traced_forward(problem: Problem) -> tuple[Any, Tree, tuple[int | None, ...]]:
    """The jaxpr of `Adjoint.forward` on one row, what it keeps, and aliases.

    An alias says which leaf of the projected inputs a leaf of the residuals is; None
    where it is one of its own.

    Raises:
      Unsupported: the step wants a batch, such as `hidden.sum(axis=1)`.
    """
    row = problem.params.tree(), problem.carry.tree(), problem.projected.tree()
    closed, (_, residuals) = _traced(problem.adjoint.forward, *row)
    projected = closed.jaxpr.invars[-len(problem.projected.leaves) :]
    kept = closed.jaxpr.outvars[len(problem.carry.leaves) :]
    places = {var: i for i, var in enumerate(projected)}
    aliases = (None if isinstance(var, Literal) else places.get(var) for var in kept)
    return closed, Tree.of(residuals), tuple(aliases)


@functools.lru_cache(maxsize=256)
def traced_backward(problem: Problem) -> tuple[Any, Tree]:
    """The jaxpr of `Adjoint.backward_data` on one row, and delta."""
    params, carry = problem.params.tree(), problem.carry.tree()
    residuals = traced_forward(problem)[1].tree()
    given = params, carry, carry, residuals, carry
    closed, (_, delta) = _traced(problem.adjoint.backward_data, *given)
    return closed, Tree.of(delta)


def _traced(function: Callable[..., Any], *row: Any) -> tuple[Any, Any]:
    """Its jaxpr on one row, and the shapes of what it returns."""
    try:
        return jax.make_jaxpr(function, return_shape=True)(*row)
    except Exception as error:  # if it is a mistake, a scan will raise it too
        raise Unsupported(
            f"its step fails on one row without axes of a batch ({error})"
        ) from error


@functools.lru_cache(maxsize=256)
def forward_kernel(problem: Problem, *, save: bool) -> Kernel:
    """Writes every `carry{i}`, and with `save` every `residual{i}` that is no alias.

    Raises:
      Unsupported: there is no such kernel.
    """
    closed, kept, aliases = traced_forward(problem)
    kernel = _Kernel(problem, "forward")
    kernel.reads_steps("x", "x", problem.projected)
    new, residuals = kernel.computes(
        closed, [problem.carry, kept], before=problem.carry, x=problem.projected
    )
    for slot, value in new:
        at = slot.at
        kernel.head += [f"real state{at} = {kernel.element('first', slot, OF_ROW)};"]
        before = kernel.or_start(slot, f"state{at}")
        kernel.before += [f"const real before{at} = {before};"]
        after = kernel.if_valid(value, f"before{at}")
        kernel.after += [f"state{at} = as_stored<{slot.element}>({after});"]
        kernel.writes("carry", slot, OF_STEP, f"state{at}")
    for slot, value in residuals:
        if save and aliases[slot.leaf] is None:
            kernel.writes("residual", slot, OF_STEP, value)
    return kernel.done()


@functools.lru_cache(maxsize=256)
def backward_kernel(problem: Problem, direct: tuple[bool, ...]) -> Kernel:
    """Writes every `delta{i}` and `of_first{i}`; with resets every `of_start{i}`.

    It is the backward loop of `HoistedScan`.

    Args:
      problem: as of the forward kernel.
      direct: which leaves of the carry have a cotangent at every step.

    Raises:
      Unsupported: there is no such kernel.
    """
    closed, delta = traced_backward(problem)
    carry, residuals = problem.carry, traced_forward(problem)[1]
    kernel = _Kernel(problem, "backward")
    kernel.reads_steps("residual", "residual", residuals)
    kernel.reads_steps("written", "carry", carry, earlier=True)
    kernel.reads_steps("direct", "direct", carry, only=direct)
    trees = {"before": carry, "after": carry, "residual": residuals, "stepped": carry}
    passed, deltas = kernel.computes(closed, [carry, delta], **trees)
    for slot, value in passed:
        at = slot.at
        kernel.head += [
            f"const real first{at} = {kernel.element('first', slot, OF_ROW)};",
            f"real cotangent{at} = {kernel.element('last', slot, OF_ROW)};",
            f"real next{at} = {kernel.element('carry', slot, OF_LAST_STEP)};",
        ]
        of_step = f" + direct{at}" if direct[slot.leaf] else ""
        kernel.before += [
            f"const real earlier{at} = t > 0 ? written{at} : first{at};",
            f"const real before{at} = {kernel.or_start(slot, f'earlier{at}')};",
            f"const real after{at} = next{at};",
            f"const real total{at} = cotangent{at}{of_step};",
            f"const real stepped{at} = {kernel.if_valid(f'total{at}', '0')};",
        ]
        held = f" + (valid ? 0 : total{at})" if problem.mask else ""
        kernel.after += [
            f"cotangent{at} = {value}{held};",
            f"next{at} = earlier{at};",
        ]
        if problem.resets:
            kernel.head += [f"real of_start{at} = 0;"]
            kernel.after += [
                f"if (reset) of_start{at} += cotangent{at};",
                f"if (reset) cotangent{at} = 0;",
            ]
            kernel.writes("of_start", slot, OF_ROW, f"of_start{at}")
        kernel.writes("of_first", slot, OF_ROW, f"cotangent{at}")
    for slot, value in deltas:
        kernel.writes("delta", slot, OF_STEP, value)
    return kernel.done()


class _Slot(NamedTuple):
    """One part of a leaf; a leaf is a whole number of features wide."""

    leaf: int
    part: int
    parts: int
    dtype: Any

    @property
    def at(self) -> str:
        """The end of its names."""
        return f"{self.leaf}_{self.part}"

    @property
    def element(self) -> str:
        """The C type of an element of the array."""
        return _element(self.dtype)


class _Kernel:
    """A kernel while it is written: what its source is put together from."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem, self.name = problem, name
        self.body = Body(problem.features)
        self.inputs: dict[str, str] = {}  # name: C type of an element
        self.outputs: dict[str, Output] = {}
        self.loads: dict[str, tuple[str, str]] = {}  # of parameters: which, and C
        self.head: list[str] = []
        self.before: list[str] = []
        self.after: list[str] = []
        self.tail: list[str] = []
        for marks, name, given in (
            ("mask", "valid", problem.mask),
            ("resets", "reset", problem.resets),
        ):
            if given:
                self.inputs[marks] = "mark"
                self.head += [f"Marks {marks}_ahead({marks}, block);"]
                self.before += [f"const bool {name} = {marks}_ahead.take(slot, n);"]

    def reads_steps(
        self,
        name: str,
        array: str,
        tree: Tree,
        *,
        earlier: bool = False,
        only: tuple[bool, ...] | None = None,
    ) -> None:
        """Names what stands at every step in the leaves of `tree`."""
        for slot in self.slots(tree):
            if only is not None and not only[slot.leaf]:
                continue
            ahead = f"{name}{slot.leaf}_ahead"
            if slot.part == 0:
                of = f"{array}{slot.leaf}"
                self.inputs[of] = slot.element
                self.head += [
                    f"Ahead<{slot.element}, {slot.parts}, {str(earlier).lower()}> "
                    f"{ahead}({of}, block, place);"
                ]
            kind = "bool" if slot.element == "mark" else "real"
            value = f"{ahead}.take(slot, n, {slot.part})"
            self.before += [f"const {kind} {name}{slot.at} = {value};"]

    def computes(
        self, closed: Any, results: Sequence[Tree], **arguments: Tree
    ) -> list[list[tuple[_Slot, str]]]:
        """The step itself; returns C for every part of the results."""
        values = self._params()
        for name, tree in arguments.items():
            for leaf in range(len(tree.leaves)):
                names = [f"{name}{s.at}" for s in self.slots(tree) if s.leaf == leaf]
                values.append(np.array(names, object))
        found = iter(self.body.run(closed, values))
        pairs = []
        for tree in results:
            of_tree = [next(found) for _ in tree.leaves]
            pairs.append([(s, _text(of_tree[s.leaf], s)) for s in self.slots(tree)])
        return pairs

    def slots(self, tree: Tree) -> list[_Slot]:
        """The parts of every leaf."""
        features, found = self.problem.features, []
        for i, leaf in enumerate(tree.leaves):
            if len(leaf.shape) != 1 or leaf.shape[0] % features:
                raise Unsupported(
                    f"an array of shape {leaf.shape} at every step is not made of "
                    f"whole {features} features"
                )
            parts = leaf.shape[0] // features
            found += [_Slot(i, part, parts, leaf.dtype) for part in range(parts)]
        return found

    def element(self, name: str, slot: _Slot, row: str) -> str:
        """C for this thread's element of an input."""
        array = f"{name}{slot.leaf}"
        self.inputs[array] = slot.element
        return f"value_of({array}[element({row}, {slot.parts}, {slot.part}, place)])"

    def or_start(self, slot: _Slot, otherwise: str) -> str:
        """The carry that a step starts from."""
        if not self.problem.resets:
            return otherwise
        start = self.element("start", slot, OF_ROW)
        self.head += [f"const real start{slot.at} = {start};"]
        return f"reset ? start{slot.at} : {otherwise}"

    def if_valid(self, value: str, otherwise: str) -> str:
        """`value`, or `otherwise` at a masked step."""
        return f"valid ? {value} : {otherwise}" if self.problem.mask else value

    def writes(self, name: str, slot: _Slot, row: str, value: str) -> None:
        """An output: at every step, or for the row once all steps are done."""
        array, width = f"{name}{slot.leaf}", slot.parts * self.problem.features
        leaf = jax.ShapeDtypeStruct((width,), slot.dtype)
        self.outputs[array] = Output(array, row == OF_STEP, leaf)
        where = f"{array} + element({row}, {slot.parts}, {slot.part}, place)"
        lines = self.after if row == OF_STEP else self.tail
        lines += [f"if (place.mine) store({where}, {value});"]

    def _params(self) -> list[Value | None]:
        """The parameters; None for one that a step cannot read."""
        cell, features = self.problem.cell, self.problem.features
        try:  # 840 is a multiple of all small numbers, such as of heads
            narrow, wide = (cell.param_specs(840, n) for n in (features, 2 * features))
        except ValueError as error:
            raise Unsupported(f"its param_specs take no other size: {error}") from error
        values = []
        for name, leaf in self.problem.params.tree().items():
            of_features = [1]  # drawn by `cell.noise`: (n, *batch, features)
            if name in narrow:
                axes = zip(narrow[name].shape, wide[name].shape, strict=True)
                of_features = [i for i, (one, two) in enumerate(axes) if one != two]
            drawn = name not in narrow
            values.append(self._param(name, leaf.shape, of_features, drawn=drawn))
        return values

    def _param(
        self, name: str, shape: tuple[int, ...], of_features: list[int], *, drawn: bool
    ) -> Value | None:
        """Its `Weight`s, if it is a matrix of features; else C for every part."""
        features, array = self.problem.features, self.problem.param(name)
        units = [features if i in of_features else 1 for i in range(len(shape))]
        if any(n % unit for n, unit in zip(shape, units, strict=True)):
            return None
        parts = np.empty([n // u for n, u in zip(shape, units, strict=True)], object)
        if of_features == [0, 1] == [*range(len(shape))]:
            for index in np.ndindex(parts.shape):
                parts[index] = Weight(name, *index)
            return parts
        if len(of_features) > 1:
            return None
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        for index in np.ndindex(parts.shape):
            model = "(size_t)block.model"
            first = np.dot(index, np.multiply(units, strides))
            where = f"{model} * {math.prod(shape)} + {first:.0f}"
            if drawn:
                row, part = index
                where = f"({model} * {len(parts)} + {row}) * block.rows + block.row"
                where = f"({where}) * {shape[1]} + {part * features}"
            for axis in of_features:
                where += f" + place.feature * {strides[axis]}"
            text = "_".join(map(str, (array, *(index or "0"))))
            self.loads[text] = (name, f"value_of({array}[{where}])")
            parts[index] = text
        return one_number(parts, shape)

    def done(self) -> Kernel:
        """The kernel, with what it uses of the parameters loaded before the loop."""
        problem, body = self.problem, self.body
        params, lines = problem.params.tree(), [*self.before, *body.lines, *self.after]
        used = set(re.findall(r"\w+", " ".join(lines)))
        taken = {n: param for n, (param, _) in self.loads.items() if n in used}
        loads = [f"const real {n} = {self.loads[n][1]};" for n in taken]
        for i, (name, row, column, transposed) in enumerate(body.weights):
            rows, columns = params[name].shape
            at = f"{problem.param(name)} + (size_t)block.model * {rows * columns}"
            part = f"{columns}, {row}, {column}, {str(transposed).lower()}"
            loads += [
                f"real w{i}[KEPT > 0 ? KEPT : 1];",
                f"load_weights({at}, {part}, place, w{i}, rest({i}));",
            ]
        for name in (*taken.values(), *(weight.param for weight in body.weights)):
            self.inputs[problem.param(name)] = _element(params[name].dtype)
        double = body.double or "double" in self.inputs.values()
        layout = plan(
            problem.features,
            weights=len(body.weights),
            buffers=len(body.buffers),
            reductions=body.reductions,
            streams=sum(".take(" in line for line in self.before),
            itemsize=8 if double else 4,
            splits=problem.threads_per_feature,
            shared_bytes=problem.shared_bytes,
        )
        if isinstance(layout, str):
            raise Unsupported(layout)
        constants = [
            *(("FEATURES", problem.features), ("SPLITS", layout.splits)),
            *(("THREADS", layout.threads), ("SPAN", layout.span)),
            *(("KEPT", layout.kept), ("BUFFERS", len(body.buffers))),
            *(("REDUCTIONS", body.reductions), ("AHEAD", layout.ahead)),
        ]
        arguments = ["const int* __restrict__ sizes"]
        arguments += [f"const {c}* __restrict__ {n}" for n, c in self.inputs.items()]
        outputs = tuple(self.outputs.values())
        for name, _, leaf in outputs:
            arguments.append(f"{_element(leaf.dtype)}* __restrict__ {name}")
        name = f"fused {problem.cell.name.lower()} {self.name}"
        name = re.sub("[^a-z0-9]+", "_", name)
        source = SOURCE.substitute(
            real="double" if double else "float",
            constants="\n".join(f"constexpr int {k} = {v};" for k, v in constants),
            backwards=str(self.name == "backward").lower(),
            prelude=PRELUDE,
            name=name,
            arguments=",\n    ".join(arguments),
            head="\n  ".join([*loads, *self.head]),
            lines="\n      ".join(lines),
            tail="\n  ".join(self.tail),
        )
        return Kernel(name, source, layout, tuple(self.inputs), outputs)


def _element(dtype: Any) -> str:
    """The C type of the elements of an array."""
    if dtype == jnp.bool_:
        return "mark"
    if jnp.dtype(dtype).name not in ELEMENTS:
        raise Unsupported(f"it computes in {dtype}, and kernels in {list(ELEMENTS)}")
    return ELEMENTS[jnp.dtype(dtype).name]


def _text(value: Value | None, slot: _Slot) -> str:
    """C for one part of a result."""
    part = value[slot.part] if isinstance(value, np.ndarray) else value
    if not isinstance(part, str):
        raise Unsupported("its step returns a parameter")
    return part
