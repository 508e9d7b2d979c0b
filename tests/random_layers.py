"""Layers of any options on any shapes, compared with loops of NumPy.

    python tests/random_layers.py 3000

draws so many configurations: cell, solver, Linen or NNX, alone, bidirectional or
stacked, every option of a layer, masks, lengths, restarts, initial carries, and batch
axes and times that may be 0. What a layer returns must be what the loops give, to 1e-9
in float64; an error is right only where a size that must be 1 or more is 0.
`test_random_layers.py` does it for a few.
"""

import re
import sys
import time as clock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import CELLS, SOLVERS

import jaxrnn
import jaxrnn.nnx

KINDS = ("single", "bidirectional", "stacked")
MERGES = {
    "concatenate": (jaxrnn.concatenate, lambda x, y: np.concatenate([x, y], axis=-1)),
    "add": (jnp.add, np.add),
    "multiply": (jnp.multiply, np.multiply),
}
OPTIONS = ("return_sequences", "reverse", "keep_order", "hold_outputs", "time_major")


class Configuration(NamedTuple):
    """One layer, and how it is called."""

    family: str
    kind: str
    cells: tuple[str, ...]
    solver: Any
    in_features: int
    features: int
    batch: tuple[int, ...]
    time: int
    merge: str
    returns: str
    options: dict[str, bool]
    valid: str
    resets: bool
    carry: bool

    @property
    def refusal(self):
        """What the error must say, where a size is not one that a layer can have."""
        if 0 in (self.in_features, self.features):
            return "must be a whole number of at least 1, got 0"
        if "lru" in self.cells and self.features % 2:
            return f"lru takes an even number of features.*got {self.features}"
        return None


class Found(NamedTuple):
    """What a layer makes of steps, time first."""

    carry: Any
    outputs: Any
    last: Any
    carries: Any


def drawn(rng):
    """A configuration."""

    def one(choices):
        return choices[rng.integers(len(choices))]

    kind = one(KINDS)
    names = list(CELLS)
    return Configuration(
        family=one(["linen", "nnx"]),
        kind=kind,
        cells=tuple(one(names) for _ in range(2 if kind == "stacked" else 1)),
        solver=one([None, *SOLVERS]),
        in_features=int(rng.choice(5, p=[0.05, 0.2, 0.25, 0.25, 0.25])),
        features=int(rng.choice(5, p=[0.05, 0.2, 0.25, 0.25, 0.25])),
        batch=one([(), (0,), (1,), (3,), (3,), (2, 2), (2, 0), (0, 3)]),
        time=int(rng.choice([0, 1, 2, 5, 7])),
        merge=one(list(MERGES)),
        returns=one(["outputs", "carry", "all_carries"]),
        options={name: bool(rng.integers(2)) for name in OPTIONS},
        valid=one(["all", "mask", "lengths"]),
        resets=bool(rng.integers(2)),
        carry=bool(rng.integers(2)),
    )


# As jaxrnn has it.


def made(c):
    """The layer, of shapes alone where it is of NNX."""
    options = dict(c.options)
    carries = {"carry": "return_carry", "all_carries": "return_all_carries"}
    if c.returns in carries:
        options[carries[c.returns]] = True
    if c.kind == "bidirectional":
        options.pop("reverse")  # the wrapper says which way each goes
    options |= {"param_dtype": jnp.float64, "solver": c.solver}

    def layer(cell, in_features, **changed):
        settings = {"cell": CELLS[cell][0], **options, **changed}
        if c.family == "linen":
            return jaxrnn.Recurrent(c.features, **settings)
        return jaxrnn.nnx.Recurrent(
            in_features, c.features, rngs=nnx.Rngs(0), **settings
        )

    module = jaxrnn if c.family == "linen" else jaxrnn.nnx
    first = layer(c.cells[0], c.in_features)
    if c.kind == "bidirectional":
        other = layer(c.cells[0], c.in_features)
        return module.Bidirectional(first, other, merge=MERGES[c.merge][0])
    if c.kind == "stacked":
        width = 2 if c.cells[0] == "lstm_projection" else c.features
        below = {"return_sequences": True, "keep_order": True}
        layers = [layer(c.cells[0], c.in_features, **below), layer(c.cells[1], width)]
        return module.Stacked(layers)
    return first


def called(c, rng):
    """What the layer returns, and all that an oracle needs."""
    shape = (c.time, *c.batch, c.in_features)
    inputs = rng.uniform(-1, 1, shape)
    given = {}
    mask = resets = None
    if c.valid == "mask":
        mask = given["mask"] = rng.random(shape[:-1]) < 0.6
    if c.valid == "lengths":
        lengths = given["lengths"] = rng.integers(0, c.time + 1, c.batch)
        mask = np.arange(c.time).reshape(-1, *[1] * len(c.batch)) < lengths
    if c.resets:
        resets = given["resets"] = rng.random(shape[:-1]) < 0.3

    def placed(x):
        return jnp.asarray(
            x if c.options["time_major"] else np.moveaxis(x, 0, len(c.batch))
        )

    given = {
        k: jnp.asarray(x) if k == "lengths" else placed(x) for k, x in given.items()
    }
    given["deterministic"] = True

    def values(tree):
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.uniform(-0.8, 0.8, leaf.shape)), tree
        )

    if c.family == "linen":
        layer = made(c)
        shapes = jax.eval_shape(layer.init, jax.random.key(0), placed(inputs))
        params = values(shapes["params"])

        def run(**call):
            return layer.apply({"params": params}, placed(inputs), **call)

        def start():
            return layer.apply({"params": params}, c.batch, method="initial_carry")
    else:
        layer = nnx.eval_shape(lambda: made(c))
        params = values(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
        nnx.update(layer, params)

        def run(**call):
            return layer(placed(inputs), **call)

        def start():
            return layer.initial_carry(c.batch)

    carry = first = start() if c.kind != "bidirectional" else None
    if c.kind == "bidirectional":
        first = run_start(c, params)
    if c.carry:
        carry = given["initial_carry"] = values(first)
    else:
        carry = first
    return run(**given), params, inputs, mask, resets, carry


def run_start(c, params):
    """The carries of both directions before the first step."""
    cell = CELLS[c.cells[0]][0]
    return tuple(
        cell.initial_carry(params[side], c.batch) for side in ("forward", "reverse")
    )


# As loops of NumPy have it.


def one_layer(c, cell, params, inputs, mask, resets, carry, reverse):
    """One cell along the steps."""
    step = CELLS[cell][1]
    rows = int(np.prod(c.batch))
    params = jax.tree.map(np.asarray, params)

    def flat(x, axes):
        return np.asarray(x).reshape(
            *np.shape(x)[:axes], rows, *np.shape(x)[axes + len(c.batch) :]
        )

    def folded(x, axes):
        return x.reshape(*x.shape[:axes], *c.batch, *x.shape[axes + 1 :])

    inputs = flat(inputs, 1)
    mask = np.ones(inputs.shape[:2], bool) if mask is None else flat(mask, 1)
    resets = np.zeros(inputs.shape[:2], bool) if resets is None else flat(resets, 1)
    carry = jax.tree.map(lambda leaf: flat(leaf, 0), carry)
    time = len(inputs)
    carries: list[Any] = [None] * time
    for t in reversed(range(time)) if reverse else range(time):
        boundary = t + 1 if reverse else t  # backwards an episode ends before the next
        if boundary < time:
            again = resets[boundary][:, None]
            carry = jax.tree.map(lambda old, a=again: np.where(a, 0, old), carry)
        new = step(params, carry, inputs[t])
        valid = mask[t][:, None]
        carry = jax.tree.map(lambda n, o, v=valid: np.where(v, n, o), new, carry)
        carries[t] = carry
    last = jax.tree.leaves(carry)[0]
    held = [jax.tree.leaves(one)[0] for one in carries]
    held = np.stack(held) if held else np.zeros((0, *last.shape))
    outputs = held if c.options["hold_outputs"] else np.where(mask[..., None], held, 0)
    stacked = (
        jax.tree.map(lambda *leaves: folded(np.stack(leaves), 1), *carries)
        if carries
        else jax.tree.map(lambda leaf: folded(np.zeros((0, *leaf.shape)), 1), carry)
    )
    carry = jax.tree.map(lambda leaf: folded(leaf, 0), carry)
    return Found(carry, folded(outputs, 1), folded(last, 0), stacked)


def expected(c, params, inputs, mask, resets, carry):
    """What the layer must return."""
    backwards = c.options["reverse"] and c.kind != "bidirectional"
    if c.kind == "single":
        found = one_layer(c, c.cells[0], params, inputs, mask, resets, carry, backwards)
    elif c.kind == "stacked":
        below = one_layer(
            c, c.cells[0], params["layers_0"], inputs, mask, resets, carry[0], backwards
        )
        above = one_layer(
            c,
            c.cells[1],
            params["layers_1"],
            below.outputs,
            mask,
            resets,
            carry[1],
            backwards,
        )
        found = Found(
            (below.carry, above.carry),
            above.outputs,
            above.last,
            (below.carries, above.carries),
        )
    else:
        sides = [
            one_layer(c, c.cells[0], params[side], inputs, mask, resets, first, reverse)
            for side, first, reverse in zip(
                ("forward", "reverse"), carry, (False, True), strict=True
            )
        ]
        merge = MERGES[c.merge][1]
        found = Found(
            tuple(side.carry for side in sides),
            merge(sides[0].outputs, sides[1].outputs),
            merge(sides[0].last, sides[1].last),
            tuple(side.carries for side in sides),
        )

    def as_asked(sequences):
        if backwards and not c.options["keep_order"]:
            sequences = jax.tree.map(lambda x: x[::-1], sequences)
        if c.options["time_major"]:
            return sequences
        return jax.tree.map(lambda x: np.moveaxis(x, 0, len(c.batch)), sequences)

    outputs = as_asked(found.outputs) if c.options["return_sequences"] else found.last
    if c.returns == "all_carries":
        return as_asked(found.carries), outputs
    return (found.carry, outputs) if c.returns == "carry" else outputs


def check(seed):
    """Draws one and compares it; returns the configuration."""
    rng = np.random.default_rng(seed)
    c = drawn(rng)
    try:
        found, *rest = called(c, rng)
    except ValueError as error:
        if c.refusal is None or not re.search(c.refusal, str(error)):
            raise
        return c
    assert c.refusal is None, f"{c} must be refused"
    want = expected(c, *rest)
    found, want = (jax.tree.map(np.asarray, tree) for tree in (found, want))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-9, strict=True),
        jax.tree.leaves(found),
        jax.tree.leaves(want),
    )
    return c


def main(count):
    """Checks so many and prints what is wrong."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    begin, wrong, refused = clock.perf_counter(), 0, 0
    for seed in range(count):
        try:
            refused += check(seed).refusal is not None
        except Exception as error:
            wrong += 1
            c = drawn(np.random.default_rng(seed))
            print(f"{seed}: {c}\n  {type(error).__name__}: {error}", flush=True)
        if seed % 50 == 49:
            jax.clear_caches()
    took = clock.perf_counter() - begin
    print(f"{count} configurations, {wrong} wrong, {refused} refused, {took:.0f} s")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]))))
