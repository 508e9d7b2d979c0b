"""What is one update? A gradient, through the optimizer, to the next parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxrnn.data.batches import Batch, check_batch
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import (
    check_all_integers,
    check_key,
    check_optimizer,
    checked_first,
    returned_by,
)
from jaxrnn.train.programs import program
from jaxrnn.train.state import TrainState, check_state

# (params, batch), and a key as well where training is given a noise_key
LossFn = Callable[..., tuple[Array, dict[str, Mean]]]
# (params, carry, batch), and a key as well where training is given a noise_key
StreamLossFn = Callable[..., tuple[Array, tuple[PyTree, dict[str, Mean]]]]


def update(
    state: TrainState,
    *arguments: Any,
    loss_fn: LossFn | StreamLossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None,
    with_carry: bool = False,
) -> tuple[TrainState, Any]:
    """One update, to be compiled as a part of something larger.

    Args:
      state: params, opt_state, step.
      *arguments: what `loss_fn` takes after the parameters.
      loss_fn: returns the loss, and something beside it.
      optimizer: an Optax transformation.
      noise_key: None, or folded with the step and given to `loss_fn` at the end.
      with_carry: whether `loss_fn` is that of a stream.

    Returns:
      The next state, and what `loss_fn` returns beside the loss.

    Raises:
      TypeError: a `noise_key`, `loss_fn` or `optimizer` that is none, a `loss_fn` that
        returns something else than a loss and means, parameters that are no floats.
      ValueError: a `Batch` among the arguments whose arrays differ in their rows,
        another optimizer than that of the state.
    """
    for argument in arguments:
        if isinstance(argument, Batch):
            check_batch(argument)
    check_optimizer(optimizer)
    noise = ()
    if noise_key is not None:
        check_key("noise_key", noise_key)
        noise = (jax.random.fold_in(noise_key, state.step),)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                "params must be floating point, to have a gradient, got "
                f"{jnp.result_type(leaf)} at {jax.tree_util.keystr(path)}; write "
                ".astype(jnp.float32), or keep what is no parameter elsewhere."
            )
    made = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
    if jax.tree.structure(state.opt_state) != made:
        raise ValueError(
            "optimizer must be the one that the state was made with, whose opt_state "
            f"would be {made}, got {jax.tree.structure(state.opt_state)}; write "
            "init_state(state.params, optimizer) for another one."
        )
    loss = functools.partial(returned_by, loss_fn, with_carry=with_carry)
    gradients, aux = jax.grad(loss, has_aux=True)(state.params, *arguments, *noise)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), aux


def _check(state: TrainState, batch: Batch, **options: object) -> None:
    """What a compiled program cannot see: values."""
    del options
    check_state(state)
    check_all_integers("a batch", batch)


@checked_first(_check)
@program(owners=("loss_fn", "optimizer"), donate=("state",))
def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One update from one batch, compiled; the state given is used up (donated).

    Args:
      state: params, opt_state, step.
      batch: of one shape in all calls, else it is compiled again.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      noise_key: for dropout: `loss_fn` is called as `(params, batch, key)`, with a key
        folded with the step, another one at every update.

    Returns:
      The next state, and the means of the batch before the update.

    Raises:
      TypeError: a `loss_fn` that takes or returns something else, parameters that are
        not of floating point, a `state`, an `optimizer` or a `noise_key` that is none.
      ValueError: arrays of the batch that differ in their number of rows, or have none;
        integers that do not fit into 32 bits; another optimizer than that of `state`.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (batch.inputs @ params["w"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> optimizer = keras_rmsprop()
      >>> state = init_state({"w": jnp.zeros(2)}, optimizer)
      >>> batch = Batch(jnp.ones((4, 2)), jnp.ones(4), None, jnp.ones(4))
      >>> state, means = train_step(state, batch, loss_fn=loss_fn, optimizer=optimizer)
      >>> means["loss"].value.item()
      1.0
    """
    return update(
        state, batch, loss_fn=loss_fn, optimizer=optimizer, noise_key=noise_key
    )
