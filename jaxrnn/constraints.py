"""How are weights kept within bounds? Keras' constraints, after every update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxrnn.rules import check_rules, check_settings, rules_by_leaf

Constraint = Callable[[Any], Array]  # an array -> one that is allowed
Axes = int | tuple[int, ...]

EPSILON = 1e-7  # Keras' `backend.epsilon()`, which keeps zero weights zero


def max_norm(max_value: float = 2.0, *, axis: Axes = 0) -> Constraint:
    """Keras' MaxNorm: shrinks what is longer than `max_value`.

        w' = w min(|w|, max_value) / (|w| + 1e-7)

    Because of Keras' epsilon even what is short enough shrinks, by 1e-7 / |w|.
    `optax.projections.projection_l2_ball` has no epsilon and takes one norm of a whole
    tree.

    Args:
      max_value: the largest norm.
      axis: along which norms are taken. 0, over the rows of a kernel, gives one norm
        per output; a bias has one.

    Returns:
      A function from an array to an array, for `constrained`.

    Raises:
      ValueError: a negative `max_value`.

    Example:
      >>> kernel = jnp.array([[3.0, 0.25], [4.0, 0.0]])
      >>> max_norm(1.0)(kernel).round(3).tolist()
      [[0.6000000238418579, 0.25], [0.800000011920929, 0.0]]
    """
    return min_max_norm(0.0, max_value, axis=axis)


def unit_norm(*, axis: Axes = 0) -> Constraint:
    """Keras' UnitNorm: w' = w / (|w| + 1e-7).

    Args:
      axis: along which norms are taken, as in `max_norm`.

    Returns:
      A function from an array to an array, for `constrained`.

    Example:
      >>> unit_norm()(jnp.array([3.0, 4.0])).round(3).tolist()
      [0.6000000238418579, 0.800000011920929]
    """

    def constraint(values: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        return values / (EPSILON + _norms(values, axis))

    return constraint


def min_max_norm(
    min_value: float = 0.0,
    max_value: float = 1.0,
    *,
    rate: float = 1.0,
    axis: Axes = 0,
) -> Constraint:
    """Keras' MinMaxNorm: brings norms between two bounds, at once or bit by bit.

        w' = w (rate clip(|w|, min_value, max_value) + (1 - rate) |w|) / (|w| + 1e-7)

    What is zero stays zero, whatever `min_value`.

    Args:
      min_value, max_value: of the norms.
      rate: 1 enforces the bounds; less goes only that part of the way per update.
      axis: along which norms are taken, as in `max_norm`.

    Returns:
      A function from an array to an array, for `constrained`.

    Raises:
      TypeError: a setting that is no number.
      ValueError: bounds that are negative or in the wrong order, a rate outside of
        [0, 1].

    Example:
      >>> min_max_norm(1.0, 2.0)(jnp.array([0.3, 0.4])).round(3).tolist()
      [0.6000000238418579, 0.800000011920929]
    """
    check_settings(min_value=min_value, max_value=max_value, rate=rate)
    if not 0 <= min_value <= max_value:
        raise ValueError(
            "norms must be bounded by 0 <= min_value <= max_value, got "
            f"min_value={min_value}, max_value={max_value}."
        )
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}.")

    def constraint(values: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        norms = _norms(values, axis)
        desired = rate * jnp.clip(norms, min_value, max_value) + (1 - rate) * norms
        return values * (desired / (EPSILON + norms))

    return constraint


def non_neg(values: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
    """Keras' NonNeg: w' = max(w, 0). A constraint itself; there is nothing to set.

    Example:
      >>> non_neg(jnp.array([-1.0, 2.0])).tolist()
      [0.0, 2.0]
    """
    return optax.projections.projection_non_negative(values)


def constrained(
    optimizer: optax.GradientTransformation, rules: Mapping[str, Constraint]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer after whose updates the parameters are constrained, as in Keras.

        p' = constraint(p + update)

    An Optax transformation returns what to add to the parameters: here
    constraint(p + update) - p. Adding that rounds once more, so a norm can exceed its
    bound by the last digit or two, as it can in Keras. `non_neg` is exact: rounding
    keeps the order of numbers, so nothing becomes negative, and 0 is 0 where it is in
    Keras. Parameters without a constraint get the very update of `optimizer`. As in
    Keras, initial values are not constrained before the first update.

    Args:
      optimizer: any Optax transformation, complete with its learning rate.
      rules: `{name: constraint}`. A name is one of a parameter ("kernel") or the end of
        its path ("recurrent/kernel"), and stands for all that fit; the names of Keras'
        `kernel_constraint`, `recurrent_constraint`, `bias_constraint` are kernel,
        recurrent_kernel, bias (and recurrent_bias of a GRU). Where two names fit one
        parameter, both act, in the order given.

    Returns:
      An Optax transformation with the state of `optimizer`.

    Raises:
      TypeError: an optimizer that is none, rules that are no functions by name.
      ValueError: a name that fits no parameter, or an update without parameters.

    Example:
      >>> optimizer = constrained(optax.sgd(1.0), {"kernel": non_neg})
      >>> params = {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array(1.0)}
      >>> gradients = {"kernel": jnp.array([1.5, 1.5]), "bias": jnp.array(1.5)}
      >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> params["kernel"].tolist(), params["bias"].item()
      ([0.0, 0.5], -0.5)
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an Optax transformation, got {optimizer!r}; write "
            "constrained(keras_adam(0.001), rules), say."
        )
    check_rules(rules, "constraints.max_norm(2.0)")
    inner = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> Any:
        rules_by_leaf(params, rules)  # names are checked before the first update
        return inner.init(params)

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "a constraint needs the parameters, got none; call "
                "update(gradients, state, params)."
            )
        updates, state = inner.update(updates, state, params, **extra_args)

        def correct(constraints: list[Constraint], old: Any, update: Any) -> Any:
            if not constraints:
                return update
            new: Any = optax.apply_updates(old, update)
            for constraint in constraints:
                new = constraint(new)
            return new - old

        olds, structure = jax.tree.flatten(params)
        by_leaf = rules_by_leaf(params, rules)
        corrected = map(correct, by_leaf, olds, structure.flatten_up_to(updates))
        return structure.unflatten(corrected), state

    return optax.GradientTransformationExtraArgs(init, update)


def _norms(values: Array, axis: Axes) -> Array:
    return jnp.sqrt(jnp.square(values).sum(axis=axis, keepdims=True))
