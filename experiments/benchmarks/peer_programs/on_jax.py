"""What the programs on JAX have in common: Optax, the device, passes and gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workloads
from workloads import Program, Work

OPTIMIZERS = {
    "adam": functools.partial(optax.adam, eps=workloads.EPSILON),
    "rmsprop": functools.partial(
        optax.rmsprop, decay=workloads.RMSPROP_DECAY, eps=workloads.EPSILON
    ),
}


def device() -> str:
    """The kind of the first one."""
    return jax.devices()[0].device_kind


def mean_loss(work: Work, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits, or the squared error."""
    if work.sizes.classifies:
        return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()
    return jnp.mean((outputs - targets) ** 2)


def batches_of(work: Work) -> list[list[jax.Array]]:
    """Pairs of inputs and targets, on the device."""
    pairs = zip(work.inputs, work.targets, strict=True)
    return [jax.device_put(list(pair)) for pair in pairs]


def predictions_of(
    model: Callable, params: Any, work: Work, jit: Any = jax.jit
) -> Program:
    """Passes of a model: `(params, inputs) -> outputs`."""

    @jit
    def predictions(params, inputs):
        outputs = model(params, inputs)
        return jax.nn.sigmoid(outputs) if work.sizes.classifies else outputs

    inputs = jax.device_put(list(work.inputs))
    run = functools.partial(predictions, params)
    return workloads.passes(run, inputs, workloads.first_four, np.asarray)


def norms_of(result: Any) -> list[float]:
    """The loss, and the norms of its gradients, from what `value_and_grad` returns."""
    loss, (of_params, of_inputs) = result
    kernels = [leaf for leaf in jax.tree.leaves(of_params) if leaf.ndim == 2]
    return workloads.norms(loss, kernels, of_inputs)


def gradients_of(layer: Callable, params: Any, work: Work) -> Program:
    """Gradients of a layer: `(params, inputs) -> last output`."""

    @jax.jit
    def gradients(params, inputs):
        def loss(params, inputs):
            return jnp.sum(layer(params, inputs) ** 2)

        return jax.value_and_grad(loss, argnums=(0, 1))(params, inputs)

    inputs = jax.device_put(list(work.inputs))
    run = functools.partial(gradients, params)
    return workloads.passes(run, inputs, norms_of, jax.block_until_ready)
