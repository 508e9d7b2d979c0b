"""Keras on the backend of KERAS_BACKEND: `Sequential`, `compile`, `fit`.

`fit` runs whole epochs, as everybody calls it. KERAS_JIT_COMPILE=1 passes
`jit_compile=True`, which asks TensorFlow for XLA.
"""

import os

import keras
import numpy as np
import workloads
from keras import layers
from workloads import EPSILON, LEARNING_RATE, RMSPROP_DECAY, Program, Work, Workload

BACKEND = keras.backend.backend()
JIT_COMPILE = True if os.environ.get("KERAS_JIT_COMPILE") == "1" else "auto"
LAYERS = {"simple_rnn": layers.SimpleRNN, "gru": layers.GRU, "lstm": layers.LSTM}


def device() -> str:
    return keras.distribution.list_devices()[0] if BACKEND == "jax" else BACKEND


def make_model(sizes: Workload, weights) -> keras.Model:
    model = keras.Sequential([layers.Input((sizes.time,))])
    if sizes.classifies:
        model.add(layers.Embedding(sizes.vocab_size, sizes.in_features))
        model.add(layers.SimpleRNN(sizes.features))
    else:
        model = keras.Sequential([layers.Input((sizes.time, sizes.in_features))])
        model.add(layers.SimpleRNN(sizes.features, activation="relu"))
    if sizes.hidden_features is not None:
        activation = "sigmoid" if sizes.classifies else "relu"
        model.add(layers.Dense(sizes.hidden_features, activation=activation))
    model.add(layers.Dense(1, activation="sigmoid" if sizes.classifies else None))
    if sizes.optimizer == "adam":
        optimizer = keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)
    else:
        optimizer = keras.optimizers.RMSprop(
            LEARNING_RATE, rho=RMSPROP_DECAY, epsilon=EPSILON
        )
    loss = "binary_crossentropy" if sizes.classifies else "mse"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=JIT_COMPILE)
    if weights is not None:
        model.set_weights(in_order(weights))
    return model


def in_order(weights) -> list[np.ndarray]:
    """Keras' list, which is saved under the names 0, 1, 2, …"""
    return [weights[str(i)] for i in range(len(weights))]


def train(work: Work) -> Program:
    sizes = work.sizes
    model = make_model(sizes, work.weights)
    inputs = work.inputs.reshape(-1, *work.inputs.shape[2:])
    targets = work.targets.reshape(-1)
    options = {"batch_size": sizes.batch, "shuffle": False, "verbose": 0}

    def check(i):
        history = model.fit(work.inputs[i], work.targets[i], **options)
        return history.history["loss"]

    def run(updates):
        model.fit(inputs, targets, epochs=updates // sizes.updates, **options)

    return Program(check, run, unit=sizes.updates)


def predict(work: Work) -> Program:
    model = make_model(work.sizes, work.weights)
    return workloads.passes(
        model.predict_on_batch, work.inputs, workloads.first_four, np.asarray
    )


def jax_gradient(work: Work) -> Program:
    import jax

    layer, inputs = make_layer(work)
    variables = [v.value for v in layer.trainable_variables]
    fixed = [v.value for v in layer.non_trainable_variables]

    @jax.jit
    def gradients(variables, inputs):
        def loss(variables, inputs):
            outputs, _ = layer.stateless_call(variables, fixed, inputs)
            return keras.ops.sum(outputs**2)

        return jax.value_and_grad(loss, argnums=(0, 1))(variables, inputs)

    def check(result):
        loss, (of_variables, of_inputs) = result
        return workloads.norms(loss, of_variables[:2], of_inputs)

    inputs = jax.device_put(list(inputs))
    return workloads.passes(
        lambda x: gradients(variables, x), inputs, check, jax.block_until_ready
    )


def tensorflow_gradient(work: Work) -> Program:
    import tensorflow as tf

    layer, inputs = make_layer(work)

    @tf.function(jit_compile=JIT_COMPILE is True)
    def gradients(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs) ** 2)
        variables = [v.value for v in layer.trainable_variables]
        return loss, tape.gradient(loss, [inputs, *variables])

    def check(result):
        loss, (of_inputs, *of_variables) = result
        return workloads.norms(loss, of_variables[:2], of_inputs)

    def wait(result):
        return result[0].numpy()

    inputs = [tf.constant(batch) for batch in inputs]
    return workloads.passes(gradients, inputs, check, wait)


def make_layer(work: Work) -> tuple[keras.Layer, np.ndarray]:
    layer = LAYERS[work.sizes.cell](work.sizes.features)
    layer.build(work.inputs.shape[1:])
    layer.set_weights(in_order(work.weights))
    return layer, work.inputs


gradient = {"jax": jax_gradient, "tensorflow": tensorflow_gradient}.get(BACKEND)
