"""A step of a cell, drawn at random: what is moved, multiplied and summed, and how."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.cells.ops import affine_project
from jaxrnn.cells.params import fused_specs, ones, zero_hidden


def random_cell(seed):
    def step(params, hidden, projected):
        for _ in hidden.shape[:-1]:
            return jax.vmap(step, in_axes=(None, 0, 0))(params, hidden, projected)
        return drawn_step(np.random.default_rng(seed), params, hidden, projected)

    return jaxrnn.Cell(
        f"random {seed}", param_specs, zero_hidden, affine_project, step, lambda h: h
    )


def param_specs(in_features, n):
    shapes = {"column": (n, 1), "columns": (n, 2), "rows": (2, n), "three": (3,)}
    shapes |= {"square": (n, n), "wide": (n, 2 * n), "scalar": ()}
    specs = {name: jaxrnn.ParamSpec(shape, ones) for name, shape in shapes.items()}
    return fused_specs(2, in_features, n, ("bias",)) | specs


def drawn_step(rng, params, hidden, projected):
    """Three to nine operations on arrays, each of which may take what others made."""
    n = len(hidden)
    square, wide = params["square"], params["wide"]
    matrices = [square, wide, square.T, wide[:, n:]]
    matrices += [square[None].transpose(2, 1, 0)[:, :, 0]]
    matrices += [jnp.concatenate([square, wide[:, :n]])]
    arrays = [params[k] for k in ("column", "columns", "rows", "three", "scalar")]
    arrays = [hidden, projected, *arrays]
    given = len(arrays)
    for _ in range(rng.integers(3, 10)):
        array = arrays[rng.integers(len(arrays))]
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        result = operation(rng, array, arrays, matrices)
        if result is not None and result.size <= 40 * n and result.ndim <= 3:
            arrays.append(result / (1 + 0.1 * result.ndim))
    new = 0.1 * hidden
    for array in arrays[given:][-5:]:
        if array.shape[-1:] == (n,):
            new += array.reshape(-1, n).sum(0)
        elif array.shape[:1] == (n,):
            new += array.reshape(n, -1).sum(1)
        else:
            new += array.sum()
    return jnp.tanh(new / 2)


def one_of(rng, arrays, fits):
    found = [array for array in arrays if fits(array)]
    return found[rng.integers(len(found))]


def like(rng, array, arrays):
    return one_of(rng, arrays, lambda other: other.shape == array.shape)


def axis_of(rng, array):
    return int(rng.integers(array.ndim))


def on_axes(function):
    """Where there is an axis."""
    return lambda rng, array, *rest: function(rng, array, *rest) if array.ndim else None


def contract(rng, array, arrays, matrices):
    other = one_of(rng, [*arrays, *matrices], lambda other: other.ndim)
    pairs = [
        (i, j)
        for i, size in enumerate(array.shape)
        for j, other_size in enumerate(other.shape)
        if size == other_size
    ]
    if not pairs:
        return None
    i, j = pairs[rng.integers(len(pairs))]
    return jnp.tensordot(array, other, axes=([i], [j]))


def join(rng, array, arrays, matrices):
    other, axis = like(rng, array, arrays), axis_of(rng, array)
    return jnp.concatenate([array, other, array], axis)


def pad(rng, array, arrays, matrices):
    widths, axis = [(0, 0)] * array.ndim, axis_of(rng, array)
    size = array.shape[axis]
    widths[axis] = tuple(size * int(n) for n in rng.integers(0, 2, 2))
    return jnp.pad(array, widths)


def index(rng, array, arrays, matrices):
    keep = bool(rng.integers(2))
    return jax.lax.index_in_dim(array, 0, axis_of(rng, array), keepdims=keep)


def repeat(rng, array, arrays, matrices):
    axis = int(rng.integers(array.ndim + 1))
    times = int(rng.choice([2, 3, len(arrays[0])]))
    shape = (*array.shape[:axis], times, *array.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(array, axis), shape)


OPERATIONS = (
    lambda rng, array, arrays, _: jnp.tanh(array) * like(rng, array, arrays),
    lambda rng, array, arrays, _: array + like(rng, array, arrays),
    lambda rng, array, arrays, _: jnp.where(
        array > 0, like(rng, array, arrays), -array
    ),
    lambda rng, array, arrays, _: array * arrays[6],
    on_axes(lambda rng, array, *_: array.sum(axis_of(rng, array))),
    on_axes(lambda rng, array, *_: array.max(axis_of(rng, array), keepdims=True)),
    on_axes(
        lambda rng, array, *_: array - array.mean(axis_of(rng, array), keepdims=True)
    ),
    lambda rng, array, *_: array.transpose(*rng.permutation(array.ndim)),
    lambda rng, array, *_: jnp.expand_dims(array, int(rng.integers(array.ndim + 1))),
    lambda _, array, *__: array.reshape((2, -1) if array.size % 2 == 0 else -1),
    lambda _, array, *__: array.reshape(-1),
    on_axes(index),
    on_axes(join),
    on_axes(pad),
    repeat,
    contract,
    contract,
)
