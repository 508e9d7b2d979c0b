"""The real-gated linear recurrent unit of Griffin."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Cell, Params, ParamSpec
from jaxrnn.cells.linear_cell import linear_cell
from jaxrnn.cells.ops import as_row
from jaxrnn.cells.params import as_one_program, gated_specs


def rg_lru_cell(*, exponent: float = 8.0, use_bias: bool = True) -> Cell:
    """The RG-LRU cell.

        r, i = sigmoid(x W_r + b_r), sigmoid(x W_i + b_i)
        a = sigmoid(Lambda)^(exponent r)
        h' = a * h + sqrt(1 - a^2) * (i * v),    v = x W_v + b_v

    Lambda is `recurrent_logit` (features,). W_r, W_i and W_v stand side by side in
    `kernel`. The step is linear in h with coefficients that the inputs alone decide, so
    `ParallelScan` runs all steps at once.

    The paper's layer has x itself in the place of v, and a linear layer before it:
    where W_v is the identity, b_v zero and `features` is `in_features`, that is this
    cell. The code for language models (RecurrentGemma) also replaces W_r and W_i by
    blocks along the diagonal, the root by 1 at the first step of an episode, and starts
    with sigmoid(Lambda) itself between 0.9 and 0.999; the text does none of it.

    Kernels start as LeCun's normal, biases at 0, and Lambda so that
    sigmoid(Lambda)^exponent is uniform between 0.9 and 0.999, all as in the paper.

    Args:
      exponent: c, so that r in (0, 1) reaches from full memory to some forgetting.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Raises:
      ValueError: an `exponent` that is not above 0.

    Example:
      >>> rg_lru_cell() is rg_lru
      True
      >>> params = init_params(rg_lru, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 9), 'bias': (9,), 'recurrent_logit': (3,)}

    Reference: De et al., Griffin: mixing gated linear recurrences with local attention
    for efficient language models, 2024, arXiv 2402.19427, section 2.4.
    """
    if not exponent > 0:
        raise ValueError(f"exponent must be above 0, got {exponent}.")
    return _build(exponent, use_bias)


@functools.lru_cache(maxsize=256)
def _build(exponent: float, use_bias: bool) -> Cell:
    recurrent_logit = as_one_program(functools.partial(_recurrent_logit, exponent))

    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        specs = gated_specs(3, in_features, features, use_bias=use_bias)
        return specs | {
            "kernel": specs["kernel"]._replace(init=_lecun_normal),
            "recurrent_logit": ParamSpec((features,), recurrent_logit),
        }

    def coefficients(params: Params, projected: Array) -> tuple[Array, Array]:
        x_r, x_i, v = jnp.split(projected, 3, axis=-1)
        logit = as_row(params["recurrent_logit"], x_r)
        log_a = exponent * jax.nn.log_sigmoid(logit) * jax.nn.sigmoid(x_r)
        # Above 0, where a is 1 but for rounding: the slope of a root at 0 is infinite.
        kept = jnp.maximum(-jnp.expm1(2 * log_a), jnp.finfo(log_a.dtype).tiny)
        return jnp.exp(log_a), jnp.sqrt(kept) * (jax.nn.sigmoid(x_i) * v)

    return linear_cell("rg_lru", 3, param_specs, coefficients)


_lecun_normal = as_one_program(jax.nn.initializers.lecun_normal())


def _recurrent_logit(
    exponent: float, key: Array, shape: tuple[int, ...], dtype: Any
) -> Array:
    """The logit of a, where a^exponent is uniform between 0.9 and 0.999."""
    power = jax.random.uniform(key, shape, jnp.float32, 0.9, 0.999)
    log_a = jnp.log(power) / exponent
    return (log_a - jnp.log(-jnp.expm1(log_a))).astype(dtype)


rg_lru: Cell = rg_lru_cell()
