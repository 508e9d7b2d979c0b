"""What does one update hand to the next, and how does it begin?"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from jaxrnn.train.checks import check_key, check_optimizer
from jaxrnn.train.programs import program


class TrainState(NamedTuple):
    """What one update hands to the next.

    Several models are one `TrainState` whose leaves have a leading axis of models;
    `create_train_state` makes one of several keys.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, "*models"]


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update, of parameters that exist.

    Raises:
      TypeError: an `optimizer` that is not one of Optax.

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
      TypeError: a key that is not from `jax.random.key`, an `optimizer` that is not
        one of Optax.

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
    for _ in key.shape:
        create = jax.vmap(create)
    return create(key)
