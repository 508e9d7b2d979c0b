"""What do large or parallel weights cost? Keras' regularisers, summed over a model."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxrnn.dtypes import widened
from jaxrnn.rules import check_rules, check_settings, rules_by_leaf

Regularizer = Callable[[Any], Array]  # an array -> a scalar


def l1(rate: float) -> Regularizer:
    """Keras' L1: rate * sum(|x|), which makes small weights exactly small.

    Args:
      rate: at least 0; Keras' default is 0.01.

    Returns:
      A function from an array to a scalar, for `penalty` and `activity_penalty`.

    Raises:
      ValueError: a negative rate.

    Example:
      >>> l1(0.1)(jnp.array([3.0, -4.0])).item()
      0.699999988079071
    """
    return l1_l2(rate, 0.0)


def l2(rate: float) -> Regularizer:
    """Keras' L2: rate * sum(x^2), without the half of some textbooks.

    Its gradient, 2 rate x, passes through the optimizer; the weight decay of AdamW
    does not (see `jaxrnn.keras_adam`).

    Args:
      rate: at least 0; Keras' default is 0.01.

    Returns:
      A function from an array to a scalar, for `penalty` and `activity_penalty`.

    Raises:
      ValueError: a negative rate.

    Example:
      >>> l2(0.1)(jnp.array([3.0, -4.0])).item()
      2.5
    """
    return l1_l2(0.0, rate)


def l1_l2(l1: float, l2: float) -> Regularizer:
    """Keras' L1L2: l1 * sum(|x|) + l2 * sum(x^2).

    Args:
      l1, l2: at least 0.

    Returns:
      A function from an array to a scalar, for `penalty` and `activity_penalty`.

    Raises:
      ValueError: a negative rate.

    Example:
      >>> l1_l2(0.1, 0.1)(jnp.array([3.0, -4.0])).item()
      3.200000047683716
    """
    _check_rate(l1)
    _check_rate(l2)

    def regularizer(values: Float[Any, "..."]) -> Float[Array, ""]:
        values = widened(values)
        return l1 * jnp.abs(values).sum() + l2 * jnp.square(values).sum()

    return regularizer


def orthogonal(rate: float) -> Regularizer:
    """Keras' OrthogonalRegularizer: rate * mean |cosine| between pairs of rows.

    Zero for a recurrent kernel as it is drawn. For the columns, Keras' second mode,
    hand it the transpose: `lambda kernel: orthogonal(0.01)(kernel.T)`.

    Args:
      rate: at least 0; Keras' default is 0.01.

    Returns:
      A function from a matrix of at least two rows to a scalar, for `penalty`.

    Raises:
      ValueError: a negative rate; when called, anything but such a matrix.

    Example:
      >>> orthogonal(0.1)(jnp.array([[2.0, 0.0], [3.0, 4.0]])).item()
      0.06000000238418579
    """
    _check_rate(rate)

    def regularizer(matrix: Float[Any, "..."]) -> Float[Array, ""]:
        if matrix.ndim != 2 or matrix.shape[0] < 2:
            raise ValueError(
                "orthogonal compares the rows of a matrix that has at least two, got "
                f"shape {matrix.shape}; l1 and l2 take any shape."
            )
        matrix = widened(matrix)
        squares = jnp.square(matrix).sum(axis=1, keepdims=True)
        rows = matrix * jax.lax.rsqrt(
            jnp.maximum(squares, 1e-14)
        )  # Keras' 1e-7, squared
        cosines = rows @ rows.T
        pairs = rows.shape[0] * (rows.shape[0] - 1)
        others = ~jnp.eye(rows.shape[0], dtype=bool)
        return rate * jnp.abs(cosines).sum(where=others) / pairs

    return regularizer


def penalty(params: PyTree, rules: Mapping[str, Regularizer]) -> Float[Array, ""]:
    """Sums regularisers over the parameters of a model, to be added to its loss.

    Add it to the loss of every row: the mean over the rows is then Keras' loss, the one
    that is trained on and the one that is reported. (A metric named `loss` without the
    penalty would not compare to Keras'.)

    Args:
      params: a pytree of any depth.
      rules: `{name: regularizer}`. A name is that of a parameter ("kernel") or the end
        of its path ("recurrent/kernel"), and stands for all that fit; the names of
        Keras' `kernel_regularizer`, `recurrent_regularizer`, `bias_regularizer` are
        kernel, recurrent_kernel, bias (and recurrent_bias of a GRU). Where two names
        fit one parameter, both are added.

    Returns:
      A scalar; 0 without rules.

    Raises:
      TypeError: rules that are no functions by name.
      ValueError: a name that fits no parameter.

    Example:
      >>> params = {"rnn": {"kernel": jnp.ones(6)}, "head": {"kernel": jnp.ones(4)}}
      >>> penalty(params, {"kernel": l2(0.5)}).item()
      5.0
      >>> RULES = {"rnn/kernel": l2(0.5), "head/kernel": l1(0.25)}
      >>> def loss_fn(params, batch):
      ...     error = batch.inputs @ params["head"]["kernel"] - batch.targets
      ...     losses = error**2 + penalty(params, RULES)
      ...     loss = Mean.of(losses, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> batch = data.Batch(jnp.ones((2, 4)), jnp.ones(2), None, jnp.ones(2))
      >>> loss_fn(params, batch)[0].item()  # 3^2 + 3 + 1
      13.0
    """
    check_rules(rules, "regularizers.l2(0.01)")
    leaves = jax.tree.leaves(params)
    penalties = [
        regularizer(leaf)
        for leaf, regularizers in zip(leaves, rules_by_leaf(params, rules), strict=True)
        for regularizer in regularizers
    ]
    return jnp.asarray(sum(penalties, 0.0))


def activity_penalty(
    outputs: Float[Any, "batch ..."], regularizer: Regularizer
) -> Float[Array, " batch"]:
    """What each row of a layer's outputs costs: Keras' `activity_regularizer`.

    Keras divides the penalty of a batch by its rows. The mean over the rows of this
    function is the same number, and rows that fill up a batch do not count in it:

        losses = losses + activity_penalty(outputs, l2(0.01))
        loss = Mean.of(losses, batch.sample_weight)

    Keras' LSTM and GRU do so (with the outputs held at masked steps, where ours are
    zero by default). Keras' SimpleRNN takes an `activity_regularizer` and drops it
    without a word; this function takes the outputs of any layer.

    Args:
      outputs: of any layer, rows first.
      regularizer: a sum over elements, such as `l1` or `l2`.

    Returns:
      One penalty per row.

    Example:
      >>> activity_penalty(jnp.array([[1.0, 2.0], [0.0, 3.0]]), l2(1.0)).tolist()
      [5.0, 9.0]
    """
    check_rules({"regularizer": regularizer}, "regularizers.l2(0.01)")
    return jax.vmap(regularizer)(jnp.asarray(outputs))


def _check_rate(rate: float) -> None:
    check_settings(rate=rate)
    if not 0 <= rate < float("inf"):
        raise ValueError(f"a rate must be a number of at least 0, got {rate}.")
