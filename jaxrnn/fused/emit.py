"""What does a kernel of `Fused` look like? CUDA around the step of a cell.

One kernel goes forward: to the carries, and the residuals that the adjoint wants to
find again. One goes back: from the cotangents of the carries to delta. The step in the
middle of each is the cell's own `Adjoint`, see `blocks.py`; mask, resets and the order
of time are lines around it, the same for every cell.
"""

import functools
import importlib.resources
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxrnn.cells.base import Cell
from jaxrnn.fused.blocks import (
    Blocks,
    Body,
    Uniform,
    Unread,
    Unsupported,
    Value,
    Weight,
)
from jaxrnn.fused.plan import Plan, plan
from jaxrnn.solvers.adjoints import adjoint_of

PRELUDE = importlib.resources.files("jaxrnn.fused").joinpath("prelude.cu").read_text()
ELEMENTS = {
    np.dtype(jnp.float32): "float",
    np.dtype(jnp.bfloat16): "bfloat16",
    np.dtype(jnp.float64): "double",
    np.dtype(jnp.bool_): "mark",
}


class Tree(NamedTuple):
    """The shapes and dtypes of a pytree."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @classmethod
    def of(cls, tree: Any, axes: int = 0) -> "Tree":
        """Without the first `axes` axes of every leaf, which are those of steps."""
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
      params: a dict, where an array that `cell.noise` drew has no axes of the batch.
      carry: of one row.
      projected: what `cell.project` returns for one step of one row.
      mask: whether there is one.
      resets: whether there are some.
      threads_per_feature: see `plan`.
    """

    cell: Cell
    params: Tree
    carry: Tree
    projected: Tree
    mask: bool
    resets: bool
    threads_per_feature: int | None = None

    @property
    def features(self) -> int:
        """The width of the hidden vector."""
        return self.carry.leaves[-1].shape[-1]


class Kernel(NamedTuple):
    """A kernel, and the arrays that it takes and writes, by name and in this order."""

    name: str
    source: str
    plan: Plan
    inputs: tuple[str, ...]
    outputs: tuple["Output", ...]


class Output(NamedTuple):
    """An array that a kernel writes.

    Attributes:
      name: such as "carry0".
      at_steps: whether it has an axis of time.
      leaf: shape and dtype of one step of one row.
    """

    name: str
    at_steps: bool
    leaf: jax.ShapeDtypeStruct


class Slot(NamedTuple):
    """One part of one leaf of a `Tree`."""

    leaf: int
    part: int
    parts: int  # of the leaf
    element: str  # C

    @property
    def at(self) -> str:
        """The end of its name."""
        return f"{self.leaf}_{self.part}"

    @property
    def kind(self) -> str:
        """What C computes with."""
        return "bool" if self.element == "mark" else "real"


class Forward(NamedTuple):
    """The step of a cell as its adjoint takes it.

    Attributes:
      jaxpr: of `Adjoint.forward`.
      residuals: what it keeps.
      aliases: for each leaf of the residuals the leaf of the projected inputs that it
        is; None for one of its own.
    """

    jaxpr: Any
    residuals: Tree
    aliases: tuple[int | None, ...]


@functools.lru_cache(maxsize=256)
def traced_forward(problem: Problem) -> Forward:
    """One step of one row."""
    closed, (_, residuals) = jax.make_jaxpr(
        adjoint_of(problem.cell).forward, return_shape=True
    )(problem.params.tree(), problem.carry.tree(), problem.projected.tree())
    count = len(problem.projected.leaves)
    places = {var: i for i, var in enumerate(closed.jaxpr.invars[-count:])}
    aliases = (
        None if isinstance(var, Literal) else places.get(var)
        for var in closed.jaxpr.outvars[len(problem.carry.leaves) :]
    )
    return Forward(closed, Tree.of(residuals), tuple(aliases))


class Backward(NamedTuple):
    """The jaxpr of `Adjoint.backward_data`, and the delta of one row."""

    jaxpr: Any
    delta: Tree


@functools.lru_cache(maxsize=256)
def traced_backward(problem: Problem) -> Backward:
    """One step back of one row."""
    params, carry = problem.params.tree(), problem.carry.tree()
    residuals = traced_forward(problem).residuals.tree()
    closed, (_, delta) = jax.make_jaxpr(
        adjoint_of(problem.cell).backward_data, return_shape=True
    )(params, carry, carry, residuals, carry)
    return Backward(closed, Tree.of(delta))


@functools.lru_cache(maxsize=256)
def forward_kernel(problem: Problem, *, save: bool) -> Kernel:
    """Writes every `carry{i}`, and with `save` every `residual{i}` that is no alias.

    Raises:
      Unsupported: there is no such kernel.
    """
    forward = traced_forward(problem)
    carry = _slots(problem.carry, problem.features)
    lines = _Lines(problem, "forward")
    lines.reads_marks()
    lines.reads_steps("x", "x", problem.projected)
    new = lines.computes(
        forward.jaxpr, {"before": problem.carry, "x": problem.projected}
    )
    for slot, value in zip(carry, _parts_of(new, carry), strict=True):
        at, before = slot.at, f"state{slot.at}"
        lines.head += [f"real state{at} = {lines.of_row('first', slot)};"]
        if problem.resets:
            lines.head += [f"const real start{at} = {lines.of_row('start', slot)};"]
            before = f"reset ? start{at} : state{at}"
        lines.before += [f"const real before{at} = {before};"]
        after = f"valid ? {value} : before{at}" if problem.mask else value
        lines.after += [f"state{at} = as_stored<{slot.element}>({after});"]
        lines.writes("carry", problem.carry, slot, OF_STEP, f"state{at}")
    residuals = _slots(forward.residuals, problem.features)
    values = _parts_of(new[len(problem.carry.leaves) :], residuals)
    for slot, value in zip(residuals, values, strict=True):
        if save and forward.aliases[slot.leaf] is None:
            lines.writes("residual", forward.residuals, slot, OF_STEP, value)
    return lines.kernel()


@functools.lru_cache(maxsize=256)
def backward_kernel(problem: Problem, direct: tuple[bool, ...]) -> Kernel:
    """Writes every `delta{i}` and `of_first{i}`; with resets every `of_start{i}`.

    It is `HoistedScan`'s backward loop.

    Args:
      problem: as of the forward kernel.
      direct: which leaves of the carry have a cotangent at every step.

    Raises:
      Unsupported: there is no such kernel.
    """
    residuals = traced_forward(problem).residuals
    carry = _slots(problem.carry, problem.features)
    backward = traced_backward(problem)
    lines = _Lines(problem, "backward")
    lines.reads_marks()
    lines.reads_steps("residual", "residual", residuals)
    lines.reads_steps("written", "carry", problem.carry, shift=-1)
    lines.reads_steps("direct", "direct", problem.carry, which=direct)
    found = lines.computes(
        backward.jaxpr,
        {
            "before": problem.carry,
            "after": problem.carry,
            "residual": residuals,
            "stepped": problem.carry,
        },
    )
    for slot, value in zip(carry, _parts_of(found, carry), strict=True):
        at = slot.at
        lines.head += [
            f"const real first{at} = {lines.of_row('first', slot)};",
            f"real cotangent{at} = {lines.of_row('last', slot)};",
            f"real follows{at} = {lines.of('carry', slot, LAST_STEP)};",
        ]
        before = f"t > 0 ? written{at} : first{at}"
        lines.before += [f"const real earlier{at} = {before};"]
        before = f"earlier{at}"
        if problem.resets:
            lines.head += [
                f"const real start{at} = {lines.of_row('start', slot)};",
                f"real of_start{at} = 0;",
            ]
            before = f"reset ? start{at} : earlier{at}"
        total = f"cotangent{at} + direct{at}" if direct[slot.leaf] else f"cotangent{at}"
        lines.before += [
            f"const real before{at} = {before};",
            f"const real after{at} = follows{at};",
            f"const real total{at} = {total};",
            f"const real stepped{at} = {f'valid ? total{at} : 0' if problem.mask else f'total{at}'};",
        ]
        passed = f"{value} + (valid ? 0 : total{at})" if problem.mask else value
        lines.after += [f"const real passed{at} = {passed};"]
        if problem.resets:
            lines.after += [f"of_start{at} += reset ? passed{at} : 0;"]
        kept = f"reset ? 0 : passed{at}" if problem.resets else f"passed{at}"
        lines.after += [f"cotangent{at} = {kept};", f"follows{at} = earlier{at};"]
    deltas = _slots(backward.delta, problem.features)
    values = _parts_of(found[len(problem.carry.leaves) :], deltas)
    for slot, value in zip(deltas, values, strict=True):
        lines.writes("delta", backward.delta, slot, OF_STEP, value)
    for slot in carry:
        lines.writes("of_first", problem.carry, slot, OF_ROW, f"cotangent{slot.at}")
        if problem.resets:
            lines.writes("of_start", problem.carry, slot, OF_ROW, f"of_start{slot.at}")
    return lines.kernel()


OF_STEP, OF_ROW, LAST_STEP = "block.at(t)", "blockIdx.x", "block.at(block.time - 1)"


class _Lines:
    """A kernel while it is written, from its parts in the order of the source."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem, self.name = problem, name
        self.body = Body(problem.features)
        self.inputs: dict[str, str] = {}  # name: C type of its elements
        self.outputs: dict[str, Output] = {}
        self.params: dict[str, jax.ShapeDtypeStruct] = {}
        self.loads: dict[str, tuple[str, str]] = {}  # name: its parameter, and C
        self.head: list[str] = []
        self.before: list[str] = []
        self.after: list[str] = []
        self.tail: list[str] = []
        self.streams = 0

    def of(self, name: str, slot: Slot, row: str) -> str:
        """C for this thread's element of an array."""
        array = f"{name}{slot.leaf}"
        self.inputs[array] = slot.element
        return f"value_of({array}[element({row}, {slot.parts}, {slot.part}, place)])"

    def of_row(self, name: str, slot: Slot) -> str:
        return self.of(name, slot, OF_ROW)

    def reads_marks(self) -> None:
        marks = [("mask", "valid", self.problem.mask)]
        marks += [("resets", "reset", self.problem.resets)]
        for array, name, given in marks:
            if given:
                self.inputs[array] = "mark"
                self.head += [f"Marks {array}_steps({array}, block);"]
                self._ahead(f"{array}_steps", [f"const bool {name} = {{}};"])

    def reads_steps(
        self,
        name: str,
        array: str,
        tree: Tree,
        *,
        shift: int = 0,
        which: tuple[bool, ...] | None = None,
    ) -> None:
        """Names what stands at this step in every leaf of `tree`."""
        for leaf in range(len(tree.leaves)):
            slots = [s for s in _slots(tree, self.problem.features) if s.leaf == leaf]
            if which is not None and not which[leaf]:
                continue
            source, element, parts = f"{array}{leaf}", slots[0].element, len(slots)
            self.inputs[source] = element
            self.head += [
                f"Steps<{element}, {parts}> {name}{leaf}_steps"
                f"({source}, block, place, {shift});"
            ]
            self._ahead(
                f"{name}{leaf}_steps",
                [f"const {s.kind} {name}{s.at} = {{}}[{s.part}];" for s in slots],
            )

    def _ahead(self, steps: str, names: list[str]) -> None:
        self.streams += len(names)
        self.before += [
            line.replace("{}", f"{steps}.ahead[slot]").replace("= ", "= value_of(", 1)
            .replace(";", ");")
            for line in names
        ]
        self.before += [f"{steps}.fetch(slot, block.step(n + AHEAD));"]

    def computes(self, closed: Any, trees: dict[str, Tree]) -> list[Value]:
        """The step itself."""
        values = self._params()
        for name, tree in trees.items():
            slots = _slots(tree, self.problem.features)
            for leaf in range(len(tree.leaves)):
                texts = [f"{name}{s.at}" for s in slots if s.leaf == leaf]
                parts = np.array(texts, object)
                values.append(Blocks(parts, (self.problem.features,)))
        return self.body.run(closed, values)

    def writes(
        self, name: str, tree: Tree, slot: Slot, row: str, value: str
    ) -> None:
        array = f"{name}{slot.leaf}"
        self.outputs[array] = Output(array, row == OF_STEP, tree.leaves[slot.leaf])
        where = f"{array} + element({row}, {slot.parts}, {slot.part}, place)"
        lines = self.tail if row == OF_ROW else self.after
        lines += [f"if (place.mine) store({where}, {value});"]

    def _params(self) -> list[Value]:
        """The parameters in parts; what of them is used is loaded before the loop."""
        cell, features = self.problem.cell, self.problem.features
        narrow, wide = (cell.param_specs(1, width) for width in (features, 2 * features))
        values: list[Value] = []
        for name, leaf in self.problem.params.tree().items():
            drawn = name not in narrow  # by `cell.noise`: (n, *batch, features)
            units = (1, features)
            if not drawn:
                pairs = zip(narrow[name].shape, wide[name].shape, strict=True)
                units = tuple(1 if one == two else features for one, two in pairs)
            values.append(self._param(f"param_{name}", leaf, units, drawn=drawn))
        return values

    def _param(
        self,
        name: str,
        leaf: jax.ShapeDtypeStruct,
        units: tuple[int, ...],
        *,
        drawn: bool,
    ) -> Value:
        features, shape = self.problem.features, leaf.shape
        if len(shape) > 2 or any(n % unit for n, unit in zip(shape, units, strict=True)):
            return Unread(f"{name} of shape {shape} is not made of whole features")
        parts = np.empty([n // unit for n, unit in zip(shape, units, strict=True)], object)
        if len(units) == 2 and units == (features, features):
            for index in np.ndindex(parts.shape):
                parts[index] = Weight(name, *index)
            self.params[name] = leaf
            return Blocks(parts, units)
        if units[-1:] != (features,) and leaf.size != 1:
            return Unread(f"{name} of shape {shape} has no axis of features")
        for index in np.ndindex(parts.shape):
            part = parts[index] = "_".join([name, *map(str, index)])
            rows, *of_row = index if len(index) == 2 else (0, *index)
            row = f"block.model * {parts.shape[0] if len(index) == 2 else 1} + {rows}"
            row = f"({row}) * block.rows + block.row" if drawn else row
            where = f"element({row}, {parts.shape[-1]}, {of_row[0]}, place)"
            if units[-1:] != (features,):
                where = "block.model"
            self.loads[part] = (name, f"value_of({name}[{where}])")
            self.params[name] = leaf
        return Blocks(parts, units) if units[-1:] == (features,) else Uniform(part)

    def kernel(self) -> Kernel:
        """The whole of it."""
        problem, body = self.problem, self.body
        used = set(re.findall(r"\w+", " ".join([*body.lines, *self.before, *self.after])))
        loads = []
        for part, (name, load) in self.loads.items():
            if part in used:
                self._takes(name)
                loads.append(f"const real {part} = {load};")
        for number, weight in enumerate(body.weights):
            name = weight.param
            rows, columns = self.params[name].shape
            self._takes(name)
            loads += [
                f"real w{number}[KEPT > 0 ? KEPT : 1];",
                f"load_weights({name} + (size_t)block.model * {rows * columns}, {columns}, "
                f"{weight.row}, {weight.column}, {str(weight.transposed).lower()}, "
                f"place, w{number}, rest({number}));",
            ]
        real = "double" if "double" in self.inputs.values() else "float"
        layout = plan(
            problem.features,
            weights=len(body.weights),
            buffers=len(body.buffers),
            reductions=body.reductions,
            streams=self.streams,
            itemsize=8 if real == "double" else 4,
            splits=problem.threads_per_feature,
        )
        if isinstance(layout, str):
            raise Unsupported(layout)
        constants = {
            "FEATURES": problem.features,
            "SPLITS": layout.splits,
            "THREADS": layout.threads,
            "SPAN": layout.span,
            "KEPT": layout.kept,
            "BUFFERS": len(body.buffers),
            "REDUCTIONS": body.reductions,
            "AHEAD": layout.ahead,
        }
        pointers = ["const int* __restrict__ sizes"]
        pointers += [f"const {c}* __restrict__ {name}" for name, c in self.inputs.items()]
        pointers += [
            f"{_element(output.leaf.dtype)}* __restrict__ {output.name}"
            for output in self.outputs.values()
        ]
        name = f"{re.sub(r'[^a-z0-9]+', '_', problem.cell.name.lower())}_{self.name}"
        step = [*self.before, *body.lines, *self.after]
        source = [
            f"using real = {real};",
            *(f"constexpr int {key} = {value};" for key, value in constants.items()),
            f"constexpr bool BACKWARDS = {str(self.name == 'backward').lower()};",
            PRELUDE,
            f'extern "C" __global__ void __launch_bounds__(THREADS) {name}(',
            *(f"    {pointer}," for pointer in pointers[:-1]),
            f"    {pointers[-1]}) {{",
            "  const Block block(sizes);",
            "  const Place place;",
            "  clear_buffers();",
            *(f"  {line}" for line in (*loads, *self.head)),
            "  sync();",
            "  for (int turn = 0; turn < block.time; turn += AHEAD) {",
            "#pragma unroll",
            "    for (int slot = 0; slot < AHEAD; ++slot) {",
            "      const int n = turn + slot;",
            "      if (n >= block.time) break;",
            "      const int t = block.step(n), parity = n & 1;",
            *(f"      {line}" for line in step),
            "    }",
            "  }",
            *(f"  {line}" for line in self.tail),
            "}",
            "",
        ]
        return Kernel(
            name,
            "\n".join(source),
            layout,
            tuple(self.inputs),
            tuple(self.outputs.values()),
        )

    def _takes(self, param: str) -> None:
        self.inputs[param] = _element(self.params[param].dtype)


def _element(dtype: Any) -> str:
    if np.dtype(dtype) not in ELEMENTS:
        raise Unsupported(f"it computes in {dtype}; kernels know {', '.join(map(str, ELEMENTS))}")
    return ELEMENTS[np.dtype(dtype)]


def _slots(tree: Tree, features: int) -> list[Slot]:
    """The parts of every leaf; each has to be whole features wide."""
    found = []
    for i, leaf in enumerate(tree.leaves):
        if len(leaf.shape) != 1 or leaf.shape[0] % features:
            raise Unsupported(
                f"an array of shape {leaf.shape} at every step is not made of whole "
                f"features, of which there are {features}"
            )
        parts = leaf.shape[0] // features
        element = _element(leaf.dtype)
        found += [Slot(i, part, parts, element) for part in range(parts)]
    return found


def _parts_of(values: Sequence[Value], slots: Sequence[Slot]) -> list[str]:
    """C for every slot, from the values of the first leaves."""
    found = []
    for slot in slots:
        value = values[slot.leaf]
        if isinstance(value, Unread):
            raise Unsupported(value.reason)
        part = value.text if isinstance(value, Uniform) else value.parts[slot.part]
        if isinstance(part, Weight):
            raise Unsupported("its step returns a parameter")
        found.append(part)
    return found
