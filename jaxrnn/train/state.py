"""What does one update hand to the next, and how does it begin?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from jaxrnn.train.checks import check_function, check_key, check_optimizer
from jaxrnn.train.programs import program


class TrainState(NamedTuple):
    """What one update hands to the next.

    Several models are one `TrainState` whose leaves have a leading axis of models;
    `create_train_state` makes one of several keys.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, "*models"]


def check_state(state: Any) -> None:
    """Raises a TypeError where a state is none, parameters say."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a TrainState, got {type(state).__name__}; write "
            "init_state(params, optimizer)."
        )


def check_params(params: Any) -> None:
    """Raises a TypeError where parameters are a whole state."""
    if isinstance(params, TrainState):
        raise TypeError(
            "params must be the parameters, got a TrainState; write state.params."
        )


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update, of parameters that exist.

    Raises:
      TypeError: an `optimizer` that is not one of Optax, parameters that are not of
        floating point.

    Example:
      >>> state = init_state({"w": jnp.zeros(3)}, keras_rmsprop())
      >>> state.step.item()
      0
    """
    check_optimizer(optimizer)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


@program(owners=("init_fn", "optimizer"))
def create_train_state(
    init_fn: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    key: Key[Array, "*models"],
) -> TrainState:
    """Draws parameters and makes the state before the first update, in one program.

    Without `jax.jit` around it, `model.init` compiles each of its operations by itself.

    Args:
      init_fn: `key -> params`.
      optimizer: an Optax transformation.
      key: one for one model; an axis of keys for as many models, each with the
        parameters that its key gives alone.

    Returns:
      A `TrainState`, whose leaves have the leading axes of `key`.

    Raises:
      TypeError: an `init_fn` that is no function of a key, a key that is not from
        `jax.random.key`, an `optimizer` that is not one of Optax.

    Example:
      >>> layer = GRU(4)
      >>> inputs = jnp.zeros((1, 5, 3))  # (batch, time, in_features)
      >>> states = create_train_state(
      ...     lambda key: layer.init(key, inputs)["params"],
      ...     keras_adam(),
      ...     jax.random.split(jax.random.key(0), 10),
      ... )
      >>> states.params["kernel"].shape, states.step.shape
      ((10, 3, 12), (10,))
    """

    def create(key: Key[Array, ""]) -> TrainState:
        return init_state(init_fn(key), optimizer)

    check_key("key", key)
    way_out = 'write lambda key: model.init(key, inputs)["params"].'
    check_function("init_fn", init_fn, "key -> params", key, way_out=way_out)
    for _ in key.shape:
        create = jax.vmap(create)
    return create(key)
