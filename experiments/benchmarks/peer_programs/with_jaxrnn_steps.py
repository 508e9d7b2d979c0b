"""jaxrnn, one `train_step` per batch: the loop in Python, as the peers have it."""

import jax
import jax.numpy as jnp
import on_jax
from on_jax import device as device
from with_jaxrnn import make_training
from with_jaxrnn import missing as missing
from workloads import Program, Work

import jaxrnn
from jaxrnn import data


def train(work: Work) -> Program:
    state, options = make_training(work)
    weight = jnp.ones(work.sizes.batch)
    batches = [
        data.Batch(inputs, targets, None, weight)
        for inputs, targets in on_jax.batches_of(work)
    ]

    def update(i):
        nonlocal state
        state, means = jaxrnn.train_step(state, batches[i], **options)
        return means["loss"].value

    def run(updates):
        for i in range(updates):
            update(i % len(batches))
        jax.block_until_ready(state)

    return Program(lambda i: [float(update(i))], run)
