"""How do ids become rows of a table, and which ids are padding?"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.checks import as_array, check_dtype, check_size
from jaxrnn.cells.ops import explicit_sharding, is_divided
from jaxrnn.layers.options import check_init


def uniform_embedding(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Keras' initial values of an embedding: uniform between -0.05 and 0.05."""
    return jax.random.uniform(key, shape, dtype, minval=-0.05, maxval=0.05)


def look_up(
    embedding: Float[Array, "vocab_size features"], ids: Int[Any, "*shape"]
) -> Float[Array, "*shape features"]:
    """The row of every id; NaN where an id lies outside, which no trace can refuse.

    Ids (batch, time) are looked up time-major, as the recurrence reads them. The
    transpose here and the one in the layer then cancel in a compiled program, and no
    copy of all features is made on the way in or out.
    """
    by_time = jnp.moveaxis(ids, -1, 0) if ids.ndim > 1 else ids
    shape = (*by_time.shape, embedding.shape[-1])
    if not is_divided(ids, embedding):
        by_time = by_time.reshape(-1)  # else the gradient begins with a copy
    features = embedding.at[by_time].get(
        mode="fill",
        fill_value=jnp.nan,
        wrap_negative_indices=False,
        out_sharding=explicit_sharding(by_time, None),
    )
    features = features.reshape(shape)
    return jnp.moveaxis(features, 0, ids.ndim - 1) if ids.ndim > 1 else features


def nonzero(ids: Int[Any, "*shape"]) -> Bool[Array, "*shape"]:
    """The mask of Keras' `mask_zero`: id 0 is padding."""
    return jnp.asarray(ids) != 0


def check_table(
    vocab_size: int, features: int, init: Any, dtype: Any, param_dtype: Any
) -> None:
    """Raises where an option of an Embed is no size, function or dtype."""
    check_size("vocab_size", vocab_size)
    check_init("embedding", init)
    check_size("features", features)
    check_dtype("dtype", dtype)
    check_dtype("param_dtype", param_dtype)


def checked_ids(ids: Any, vocab_size: int) -> Any:
    """The ids as an array.

    Raises:
      TypeError: what is no integers.
      ValueError: ids that are known and outside [0, vocab_size).
    """
    ids = as_array("ids", ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"ids must be integers, got {ids.dtype}; convert by ids.astype(jnp.int32)."
        )
    if isinstance(ids, jax.core.Tracer) or ids.size == 0:
        return ids
    known = np.asarray(ids)  # jnp.min would be traced where a trace is running
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"ids must lie in [0, vocab_size) = [0, {vocab_size}), found {low} to "
            f"{high}; encode the text with the tokenizer the model was made for, or "
            "raise vocab_size."
        )
    return ids
