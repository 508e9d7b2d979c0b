"""Does jaxrnn compute what Keras computes: layers, gradients, training?

Keras 3 on its JAX backend is the oracle of every number here, in float32.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import keras_oracle
import numpy as np
import optax
import pytest
import scipy.stats
from keras_oracle import assert_close, get_weights, keras_rules, to_weights

import jaxrnn
from jaxrnn.data import Dataset, load_imdb
from jaxrnn.metrics import Mean

# Both sides round at 6e-8 and may add in another order. The values and gradients here
# are sums of some tens of terms, of size up to 10, and agree to 7e-7 on a CPU.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}

BATCH, TIME, IN_FEATURES, FEATURES = 4, 6, 3, 5

ACTIVATIONS = {  # Keras' name -> ours
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "linear": jaxrnn.linear,
    "softplus": jax.nn.softplus,  # this one and the next have no hand-written slope
    "hard_sigmoid": jax.nn.hard_sigmoid,
}

# Every row has a valid step: what a row without one gives is a convention, with a test
# of its own below.
RIGHT_PADDED = np.arange(TIME) < np.array([[6], [4], [1], [3]])
MASKS = {
    "no_mask": None,
    "right_padded": RIGHT_PADDED,
    "left_padded": RIGHT_PADDED[:, ::-1],
    "holes": np.array(
        [
            [1, 0, 1, 1, 0, 1],
            [0, 1, 0, 0, 1, 0],
            [0, 0, 0, 1, 0, 0],
            [1, 1, 0, 1, 1, 1],
        ],
        bool,
    ),
}

SOLVERS = {
    "scan": jaxrnn.Scan(),
    "hoisted": jaxrnn.HoistedScan(),
    "hoisted_project_first": jaxrnn.HoistedScan(project_first=True),
}

LAYERS = {
    jaxrnn.SimpleRNN: keras.layers.SimpleRNN,
    jaxrnn.GRU: keras.layers.GRU,
    jaxrnn.LSTM: keras.layers.LSTM,
}

OPTIONS = {  # of every layer
    "use_bias": [True, False],
    "mask": list(MASKS),
    "reverse": [True, False],
    "return_sequences": [True, False],
    "hold_outputs": [True, False],
    "give_carry": [True, False],
    "solver": list(SOLVERS),
}
GATE_OPTIONS = {
    "activation": ["tanh", "relu", "linear"],
    "recurrent_activation": ["sigmoid", "tanh", "hard_sigmoid"],
}
OPTIONS_OF = {
    jaxrnn.SimpleRNN: {
        "activation": ["tanh", "relu", "sigmoid", "linear", "softplus"],
        **OPTIONS,
    },
    jaxrnn.GRU: {"reset_after": [True, False], **GATE_OPTIONS, **OPTIONS},
    jaxrnn.LSTM: {**GATE_OPTIONS, **OPTIONS},
}
# Every pair of options, and the default cells with all that a hand-written gradient has
# to get right at once.
CASES = [
    (layer_class, case)
    for layer_class, options in OPTIONS_OF.items()
    for case in keras_oracle.pairwise(options)
]
AT_ONCE = {
    "use_bias": True,
    "mask": "holes",
    "reverse": False,
    "return_sequences": True,
    "hold_outputs": True,
    "give_carry": True,
    "solver": "hoisted",
}
GATES = {"activation": "tanh", "recurrent_activation": "sigmoid"}
CASES += [
    (jaxrnn.SimpleRNN, {"activation": "tanh", **AT_ONCE}),
    (jaxrnn.GRU, {"reset_after": True, **GATES, **AT_ONCE}),
    (jaxrnn.GRU, {"reset_after": False, **GATES, **AT_ONCE}),
    (jaxrnn.LSTM, {**GATES, **AT_ONCE}),
]


def case_id(value):
    """The layer's name, or the options that are chosen."""
    if not isinstance(value, dict):
        return value.__name__
    flags = [name for name, chosen in value.items() if chosen is True]
    return "-".join([v for v in value.values() if isinstance(v, str)] + flags)


def uniform(rng, shape):
    return jnp.asarray(rng.uniform(-0.5, 0.5, shape).astype(np.float32))


def draw_params(module, rng, *inputs):
    """Every parameter at random, biases too: none can hide behind its zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: uniform(rng, leaf.shape), shapes)


@pytest.mark.parametrize(("layer_class", "case"), CASES, ids=case_id)
def test_layer_and_its_gradients(layer_class, case):
    settings = dict(case)  # what is left after the next lines has one name in both
    mask, solver = MASKS[settings.pop("mask")], SOLVERS[settings.pop("solver")]
    mask = None if mask is None else jnp.asarray(mask)
    give_carry, reverse = settings.pop("give_carry"), settings.pop("reverse")
    hold_outputs, sequences = settings.pop("hold_outputs"), case["return_sequences"]
    functions = {n: ACTIVATIONS[v] for n, v in settings.items() if "activation" in n}
    layer = layer_class(
        FEATURES,
        return_carry=True,
        reverse=reverse,
        hold_outputs=hold_outputs,
        solver=solver,
        **{**settings, **functions},
    )
    with keras_rules():
        # With `return_sequences` alone: Keras would also give zeros as the last output
        # of a row that ends in padding, see test_last_output_of_a_padded_row.
        keras_layer = LAYERS[layer_class](
            FEATURES,
            return_state=True,
            go_backwards=reverse,
            zero_output_for_mask=sequences and not hold_outputs,
            **settings,
        )
        keras_layer.build((BATCH, TIME, IN_FEATURES))

    rng = np.random.default_rng(0)
    inputs = 4 * uniform(rng, (BATCH, TIME, IN_FEATURES))
    params = draw_params(layer, rng, inputs)
    apply, weights, names = keras_oracle.stateless(keras_layer, params)
    hidden_shape = (BATCH, FEATURES)
    carry = [uniform(rng, hidden_shape)]  # as Keras has it: [h], or [h, c] of an LSTM
    if layer_class is jaxrnn.LSTM:
        carry.append(uniform(rng, hidden_shape))
    outputs_shape = (BATCH, TIME, FEATURES) if sequences else hidden_shape
    cotangents = [uniform(rng, outputs_shape), *(uniform(rng, c.shape) for c in carry)]

    def loss_of(values):
        """A scalar that depends on every number a layer returns."""
        pairs = zip(values, cotangents, strict=True)
        return sum((value * cotangent).sum() for value, cotangent in pairs), values

    def our_loss(params, inputs, carry):
        initial_carry = carry[0] if len(carry) == 1 else jaxrnn.LSTMCarry(*carry)
        last, outputs = layer.apply(
            {"params": params},
            inputs,
            mask=mask,
            initial_carry=initial_carry if give_carry else None,
        )
        return loss_of([outputs, *jax.tree.leaves(last)])

    def keras_loss(weights, inputs, carry):
        outputs, *last = apply(
            weights, inputs, mask=mask, initial_state=carry if give_carry else None
        )
        if reverse and sequences:  # Keras leaves them in the order of processing
            outputs = jnp.flip(outputs, axis=1)
        return loss_of([outputs, *last])

    def values_and_gradients(loss, params):
        differentiate = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
        gradients, values = differentiate(params, inputs, carry)
        return values, *gradients

    with keras_rules():
        want = values_and_gradients(keras_loss, weights)
    values, d_params, d_inputs, d_carry = values_and_gradients(our_loss, params)
    want_values, want_d_weights, want_d_inputs, want_d_carry = want

    assert_close(values, want_values, ["outputs", "h", "c"][: len(values)], **FLOAT32)
    assert_close(to_weights(d_params), want_d_weights, names, **FLOAT32)
    assert_close([d_inputs], [want_d_inputs], ["inputs"], **FLOAT32)
    assert_close(d_carry, want_d_carry, ["h", "c"][: len(carry)], **FLOAT32)
    assert all(np.abs(d).max() > 1e-2 for d in want_d_weights)  # something to compare


@pytest.mark.parametrize("layer_class", LAYERS)
def test_row_without_a_valid_step(layer_class):
    """Returns its initial carry, as in Keras: no step was taken.

    PyTorch raises there, and Keras with `unroll=True` returns the carry, but zeros as
    the output.
    """
    rng = np.random.default_rng(0)
    inputs = uniform(rng, (2, TIME, IN_FEATURES))
    mask = jnp.zeros((2, TIME), bool).at[0].set(True)
    layer = layer_class(FEATURES, return_carry=True)
    params = draw_params(layer, rng, inputs)
    parts = 2 if layer_class is jaxrnn.LSTM else 1
    carry = [uniform(rng, (2, FEATURES)) for _ in range(parts)]
    last, output = layer.apply(
        {"params": params},
        inputs,
        mask=mask,
        initial_carry=carry[0] if parts == 1 else jaxrnn.LSTMCarry(*carry),
    )
    with keras_rules():
        keras_layer = LAYERS[layer_class](FEATURES, return_state=True)
        keras_layer.build(inputs.shape)
        apply, weights, _ = keras_oracle.stateless(keras_layer, params)
        want = apply(weights, inputs, mask=mask, initial_state=carry)
    found = [output, *jax.tree.leaves(last)]
    assert_close(found, want, ["output", "h", "c"][: 1 + parts], **FLOAT32)
    for value, first in zip(found, [carry[0], *carry], strict=True):
        np.testing.assert_array_equal(value[1], first[1])


@pytest.mark.parametrize("layer_class", LAYERS)
def test_last_output_of_a_padded_row(layer_class):
    """Is that of the last valid step, whatever stands in the padding.

    Keras agrees by default. Its `zero_output_for_mask=True`, which is otherwise our
    `hold_outputs=False`, makes zeros of it.
    """
    rng = np.random.default_rng(0)
    inputs = uniform(rng, (BATCH, TIME, IN_FEATURES))
    mask = jnp.asarray(RIGHT_PADDED)
    layer = layer_class(FEATURES, hold_outputs=False)
    params = draw_params(layer, rng, inputs)
    found = layer.apply({"params": params}, inputs, mask=mask)

    def keras_output(zero_output_for_mask):
        with keras_rules():
            keras_layer = LAYERS[layer_class](
                FEATURES, zero_output_for_mask=zero_output_for_mask
            )
            keras_layer.build(inputs.shape)
            apply, weights, _ = keras_oracle.stateless(keras_layer, params)
            return np.asarray(apply(weights, inputs, mask=mask))

    np.testing.assert_allclose(found, keras_output(False), **FLOAT32)
    full = RIGHT_PADDED[:, -1]
    np.testing.assert_allclose(found[full], keras_output(True)[full], **FLOAT32)
    assert (keras_output(True)[~full] == 0).all()


@pytest.mark.parametrize(
    ("layer_class", "settings"),
    [
        (jaxrnn.SimpleRNN, {}),
        (jaxrnn.GRU, {}),
        (jaxrnn.GRU, {"reset_after": False}),
        (jaxrnn.LSTM, {}),
        (jaxrnn.LSTM, {"unit_forget_bias": False}),
    ],
)
def test_initial_values_of_layer(layer_class, settings):
    inputs = jnp.zeros((1, 1, 100))
    params = jax.jit(layer_class(64, **settings).init)(jax.random.key(0), inputs)
    with keras_rules():
        keras.utils.set_random_seed(0)
        keras_layer = LAYERS[layer_class](64, **settings)
        keras_layer.build(inputs.shape)
    kernel, recurrent_kernel, bias = to_weights(params["params"])
    want_kernel, want_recurrent_kernel, want_bias = get_weights(keras_layer)

    np.testing.assert_array_equal(bias, want_bias)
    assert_same_distribution(kernel, want_kernel)
    for matrix in (recurrent_kernel, want_recurrent_kernel):  # rows are orthonormal
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-5)
    assert_same_distribution(recurrent_kernel, want_recurrent_kernel, bounded=False)


def assert_same_distribution(found, want, bounded=True):
    """Compares bounds, standard deviation and ranks of two samples of thousands.

    The largest of n values that are uniform up to a limit is 1/n below it. Standard
    deviations of n values differ by less than 1/sqrt(n), relatively; the
    Kolmogorov-Smirnov distance stays below this bound with probability 0.999. Glorot's
    limit for one gate instead of the fused matrix, or Flax' lecun_normal, is off by
    tens of percent.
    """
    assert found.shape == want.shape
    size = found.size
    assert size > 3000
    if bounded:
        np.testing.assert_allclose(np.abs(found).max(), np.abs(want).max(), rtol=2e-3)
    np.testing.assert_allclose(found.std(), want.std(), rtol=3 / np.sqrt(size))
    distance = scipy.stats.ks_2samp(found.ravel(), want.ravel()).statistic
    assert distance < 1.95 * np.sqrt(2 / size)


def sequential(*layers, row_shape):
    """A built model: on ids (time,), or on features (time, in_features)."""
    dtype = "int32" if len(row_shape) == 1 else "float32"
    return keras.Sequential([keras.Input(row_shape, dtype=dtype), *layers])


def embedding(*sizes, **options):
    return keras.layers.Embedding(*sizes, **options)


def simple_rnn(*sizes, **options):
    return keras.layers.SimpleRNN(*sizes, **options)


def dense(*arguments):
    return keras.layers.Dense(*arguments)


# The models of the five tutorials: ours, the layers of Keras', shape of a row, and
# Keras' number of parameters.
TUTORIALS = {
    "000_sentences": (
        jaxrnn.TextClassifier(9, 100, jaxrnn.SimpleRNN(128)),
        lambda: (embedding(9, 100), simple_rnn(128), dense(1, "sigmoid")),
        (3,),
        30_341,
    ),
    "001_reviews": (
        jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32)),
        lambda: (embedding(10_000, 32), simple_rnn(32), dense(1, "sigmoid")),
        (500,),
        322_113,
    ),
    "002_short_reviews": (
        jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32)),
        lambda: (embedding(10_000, 32), simple_rnn(32), dense(1, "sigmoid")),
        (100,),
        322_113,
    ),
    "003_sine": (
        jaxrnn.Forecaster(jaxrnn.SimpleRNN(32, activation=jax.nn.relu), 8),
        lambda: (simple_rnn(32, activation="relu"), dense(8, "relu"), dense(1)),
        (1, 4),
        1_457,
    ),
    "004_flat": (
        jaxrnn.FlattenClassifier(10_000, 16, 32),
        lambda: (
            embedding(10_000, 16),
            keras.layers.Flatten(),
            dense(32, "sigmoid"),
            dense(1, "sigmoid"),
        ),
        (30,),
        175_425,
    ),
    "004_recurrent": (
        jaxrnn.TextClassifier(10_000, 16, jaxrnn.SimpleRNN(32), hidden_features=32),
        lambda: (
            embedding(10_000, 16),
            simple_rnn(32),
            dense(32, "sigmoid"),
            dense(1, "sigmoid"),
        ),
        (30,),
        162_657,
    ),
}


@pytest.mark.parametrize("name", TUTORIALS)
def test_model_of_tutorial(name):
    """The same parameters in number and shape, and the same predictions."""
    model, layers, row_shape, count = TUTORIALS[name]
    with keras_rules():
        keras_model = sequential(*layers(), row_shape=row_shape)
    assert keras_model.count_params() == count
    rng = np.random.default_rng(0)
    if isinstance(model, jaxrnn.Forecaster):
        inputs = uniform(rng, (4, *row_shape))
    else:
        inputs = jnp.asarray(rng.integers(0, model.vocab_size, (4, *row_shape)))
        inputs = inputs.astype(jnp.int32)
    params = draw_params(model, rng, inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count

    found = jax.jit(model.apply)({"params": params}, inputs)
    if not isinstance(model, jaxrnn.Forecaster):
        found = jax.nn.sigmoid(found)
    apply, weights, _ = keras_oracle.stateless(keras_model, params)
    with keras_rules():
        want = jax.jit(apply)(weights, inputs)[:, 0]
    np.testing.assert_allclose(found, want, **FLOAT32)
    assert np.ptp(want) > 1e-3

    summary = model.tabulate(jax.random.key(0), inputs)
    assert f"Total Parameters: {count:,} " in summary


# Wide enough that every kernel is a sample of thousands.
WIDE = {
    "text_classifier": (
        jaxrnn.TextClassifier(1000, 64, jaxrnn.SimpleRNN(64), hidden_features=4000),
        lambda: (embedding(1000, 64), simple_rnn(64), dense(4000), dense(1)),
        (2,),
    ),
    "flatten_classifier": (
        jaxrnn.FlattenClassifier(1000, 8, 4000),
        lambda: (
            embedding(1000, 8),
            keras.layers.Flatten(),
            dense(4000),
            dense(1),
        ),
        (5,),
    ),
    "forecaster": (
        jaxrnn.Forecaster(jaxrnn.SimpleRNN(64), 4000),
        lambda: (simple_rnn(64), dense(4000), dense(1)),
        (2, 64),
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_initial_values_of_model(name):
    model, layers, row_shape = WIDE[name]
    with keras_rules():
        keras.utils.set_random_seed(0)
        keras_model = sequential(*layers(), row_shape=row_shape)
    dtype = keras_model.inputs[0].dtype
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *row_shape), dtype))
    names = [variable.path for variable in keras_model.trainable_variables]
    found, want = to_weights(params["params"]), get_weights(keras_model)
    for path, found_array, want_array in zip(names, found, want, strict=True):
        if path.endswith("bias"):
            np.testing.assert_array_equal(found_array, want_array)
        else:
            assert_same_distribution(found_array, want_array, "recurrent" not in path)


@pytest.mark.parametrize("padding", ["pre", "post"])
def test_masked_classifier_matches_mask_zero(padding):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 20, (5, 12)).astype(np.int32)
    lengths = np.array([12, 7, 1, 3, 0])[:, None]  # one row is all padding
    steps = np.arange(12) if padding == "post" else np.arange(12)[::-1]
    ids = jnp.asarray(np.where(steps < lengths, ids, 0))
    model = jaxrnn.TextClassifier(20, 6, jaxrnn.SimpleRNN(8))
    params = draw_params(model, rng, ids)
    with keras_rules():
        keras_model = sequential(
            embedding(20, 6, mask_zero=True), simple_rnn(8), dense(1), row_shape=(12,)
        )
    apply, weights, names = keras_oracle.stateless(keras_model, params)
    cotangent = uniform(rng, 5)

    def our_loss(params, mask):
        logits = model.apply({"params": params}, ids, mask=mask)
        return (logits * cotangent).sum(), logits

    def keras_loss(weights):
        logits = apply(weights, ids)[:, 0]
        return (logits * cotangent).sum(), logits

    found, logits = jax.jit(jax.grad(our_loss, has_aux=True))(params, ids != 0)
    with keras_rules():
        gradients, want_logits = jax.jit(jax.grad(keras_loss, has_aux=True))(weights)
    np.testing.assert_allclose(logits, want_logits, **FLOAT32)
    assert_close(to_weights(found), gradients, names, **FLOAT32)
    assert not found["embed"]["embedding"][0].any()  # padding learns nothing
    assert np.abs(our_loss(params, None)[1] - logits).max() > 0.01  # masks matter


# Ours, Keras' with the same settings, and what Optax would be without our help.
OPTIMIZERS = {
    "rmsprop": (jaxrnn.keras_rmsprop(), lambda: keras.optimizers.RMSprop()),
    "rmsprop_momentum": (
        jaxrnn.keras_rmsprop(0.003, rho=0.8, momentum=0.9, epsilon=1e-6),
        lambda: keras.optimizers.RMSprop(0.003, rho=0.8, momentum=0.9, epsilon=1e-6),
    ),
    "rmsprop_centered": (
        jaxrnn.keras_rmsprop(centered=True),
        lambda: keras.optimizers.RMSprop(centered=True),
    ),
    "rmsprop_centered_momentum": (
        jaxrnn.keras_rmsprop(centered=True, momentum=0.5),
        lambda: keras.optimizers.RMSprop(centered=True, momentum=0.5),
    ),
    "adam": (jaxrnn.keras_adam(), lambda: keras.optimizers.Adam()),
    "adam_settings": (
        jaxrnn.keras_adam(0.003, b1=0.8, b2=0.99, epsilon=1e-5),
        lambda: keras.optimizers.Adam(0.003, beta_1=0.8, beta_2=0.99, epsilon=1e-5),
    ),
    "adam_schedule": (
        jaxrnn.keras_adam(optax.exponential_decay(0.001, 10, 0.9)),
        lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(0.001, 10, 0.9)
        ),
    ),
}
STEPS = 150
# The parameters go from 0 to at most 1.6 and round at 1e-7 there.
OPTIMIZER_TOLERANCE = 1e-6


def gradients_of_all_sizes():
    """(STEPS, 60): from 1e-10, far below any epsilon, to 10."""
    rng = np.random.default_rng(0)
    sizes = np.repeat(10.0 ** np.arange(-10, 2), 5)
    return (rng.normal(0.3, 1.0, (STEPS, 60)) * sizes).astype(np.float32)


def optax_run(optimizer):
    def update(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros(60)
    carry = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(update, carry, gradients_of_all_sizes())
    return np.asarray(params)


def keras_run(make_optimizer):
    with keras_rules():
        optimizer = make_optimizer()
        variable = keras.Variable(np.zeros(60, np.float32))
        optimizer.build([variable])
        update = jax.jit(optimizer.stateless_apply)
        state = [v.value for v in optimizer.variables]
        params = [variable.value]
        for gradient in gradients_of_all_sizes():
            params, state = update(state, [gradient], params)
    return params[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name):
    optimizer, keras_optimizer = OPTIMIZERS[name]
    found, want = optax_run(optimizer), keras_run(keras_optimizer)
    np.testing.assert_allclose(found, want, rtol=0, atol=OPTIMIZER_TOLERANCE)
    assert np.abs(want[-5:]).max() > 0.02  # it went somewhere


@pytest.mark.parametrize(
    ("optimizer", "keras_name"),
    [
        (optax.rmsprop(0.001), "rmsprop"),
        (optax.adam(0.001), "adam"),
        (optax.adam(0.001, eps=1e-7), "adam"),
    ],
    ids=["rmsprop", "adam", "adam_eps"],
)
def test_optax_alone_differs(optimizer, keras_name):
    """So the comparison above can fail."""
    want = keras_run(OPTIMIZERS[keras_name][1])
    with keras_rules():  # optax.adam promotes its step count
        found = optax_run(optimizer)
    assert np.abs(found - want).max() > 100 * OPTIMIZER_TOLERANCE


PROBABILITIES = np.array(  # at and beyond the clip to [1e-7, 1 - 1e-7], and between
    [
        *(0, 0, 1e-9, 9e-8, 1e-7, 1.1e-7, 1e-4, 0.3, 0.5, 0.9, 1 - 1e-4),
        *(1 - 1.8e-7, 1 - 1.2e-7, 1 - 6e-8, 1, 1),
    ],
    np.float32,
)


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_binary_cross_entropy(label):
    labels = np.full_like(PROBABILITIES, label)

    def keras_loss(p):  # Keras takes the mean over the last axis
        return keras.losses.binary_crossentropy(labels[:, None], p[:, None])

    found = jaxrnn.binary_cross_entropy(jnp.asarray(PROBABILITIES), jnp.asarray(labels))
    gradient = jax.grad(
        lambda p: jaxrnn.binary_cross_entropy(p, jnp.asarray(labels)).sum()
    )(PROBABILITIES)
    with keras_rules():
        want = keras_loss(PROBABILITIES)
        want_gradient = jax.grad(lambda p: keras_loss(p).sum())(PROBABILITIES)
    np.testing.assert_allclose(found, want, rtol=1e-6)  # the same few operations
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-6)
    assert (gradient[jnp.array([0, 1, 2, -1])] == 0).all()
    assert np.abs(gradient).max() > 1e5


def test_binary_accuracy():
    p = np.array([0, 0.2, 0.5, 0.5, 0.50001, 0.8, 1, 0.9, 0.49999], np.float32)
    labels = np.array([0, 1, 0, 1, 1, 1, 1, 0, 0], np.float32)
    found = jaxrnn.binary_accuracy(jnp.asarray(p), jnp.asarray(labels))
    with keras_rules():
        want = keras.metrics.binary_accuracy(labels, p)
        metric = keras.metrics.BinaryAccuracy()
        metric.update_state(labels, p)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_allclose(found.mean(), metric.result(), rtol=1e-6)
    assert 0 < found.mean() < 1


TRAINED = {
    "rmsprop": (jaxrnn.keras_rmsprop(), "rmsprop"),
    "adam": (jaxrnn.keras_adam(), "adam"),
}


def classifier_loss(model):
    """Binary cross-entropy on probabilities, as Keras compiles it."""

    def loss_fn(params, batch):
        logits = model.apply({"params": params}, batch.inputs, mask=batch.mask)
        p = jax.nn.sigmoid(logits)
        losses = jaxrnn.binary_cross_entropy(p, batch.targets)
        hits = jaxrnn.binary_accuracy(p, batch.targets)
        loss = Mean.of(losses, batch.sample_weight)
        return loss.value, {
            "loss": loss,
            "accuracy": Mean.of(hits, batch.sample_weight),
        }

    return loss_fn


def make_pair(vocab_size, time, optimizer_name, *, masked=False):
    """Our model and Keras', compiled, and parameters that both start from."""
    model = jaxrnn.TextClassifier(vocab_size, 32, jaxrnn.SimpleRNN(32))
    with keras_rules():
        want = sequential(
            embedding(vocab_size, 32, mask_zero=masked),
            simple_rnn(32),
            dense(1, "sigmoid"),
            row_shape=(time,),
        )
        want.compile(optimizer_name, "binary_crossentropy", metrics=["accuracy"])
    params = model.init(jax.random.key(0), jnp.zeros((1, time), int))["params"]
    want.set_weights(to_weights(params))
    return model, want, params


def check_first_steps(optimizer_name, ids, labels, steps=20, batch_size=128):
    """Trains both on the same batches and compares loss, accuracy and weights.

    Rounding, 1e-7 a step, is amplified by the optimizers, which divide by the root of
    small gradients: weights, which move by up to 0.02, end up to 2e-6 apart.
    """
    optimizer, _ = TRAINED[optimizer_name]
    model, want, params = make_pair(10_000, ids.shape[1], optimizer_name)
    loss_fn = classifier_loss(model)
    state = jaxrnn.init_state(params, optimizer)
    found_losses, want_losses = [], []
    dataset = Dataset(ids, labels)
    for batch in jaxrnn.data.batches(dataset, batch_size):
        state, means = jaxrnn.train_step(
            state, jax.device_put(batch), loss_fn=loss_fn, optimizer=optimizer
        )
        found_losses.append(jaxrnn.metrics.values(means)["loss"])
        with keras_rules():
            want.reset_metrics()  # else the loss is the mean over all batches so far
            want_losses.append(want.train_on_batch(batch.inputs, batch.targets)[0])
    assert len(found_losses) == steps
    np.testing.assert_allclose(found_losses, want_losses, rtol=1e-5)
    names = [variable.path for variable in want.trainable_variables]
    assert_close(to_weights(state.params), get_weights(want), names, atol=1e-5, rtol=0)
    assert np.ptp(want_losses) > 1e-3  # it learned, or at least moved


@pytest.mark.parametrize("optimizer_name", TRAINED)
def test_first_steps(optimizer_name):
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, (20 * 128, 100)), 9_999).astype(np.int32)
    labels = (ids[:, -5:].mean(axis=1) > 1000).astype(np.float32)
    check_first_steps(optimizer_name, ids, labels)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("optimizer_name", TRAINED)
def test_first_steps_on_reviews(optimizer_name, tmp_path):
    data_dir = os.environ.get("TFDS_DATA_DIR")
    prepared = Path(data_dir or "").expanduser() / "imdb_reviews/plain_text/1.0.0"
    if not data_dir or not prepared.is_dir():
        pytest.skip("TFDS_DATA_DIR names no directory with imdb_reviews")
    train, _, _ = load_imdb(max_length=100, data_dir=data_dir, cache_dir=tmp_path)
    rows = np.random.default_rng(0).permutation(25_000)[: 20 * 128]
    check_first_steps(optimizer_name, train.inputs[rows], train.targets[rows])


@pytest.mark.parametrize(
    ("optimizer_name", "masked"), [("rmsprop", False), ("adam", True)]
)
def test_epochs_of_fit(optimizer_name, masked):
    """Two epochs of Keras' `fit` with its own order, and a short last batch."""
    examples, batch_size, time, epochs = 300, 64, 20, 2  # 4 batches of 64, one of 44
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 500, (examples, time)).astype(np.int32)
    lengths = rng.integers(1, time + 1, (examples, 1))
    ids = np.where(np.arange(time)[::-1] < lengths, ids, 0)
    labels = (ids[:, -1] > 250).astype(np.float32)
    model, want, params = make_pair(500, time, optimizer_name, masked=masked)
    with keras_rules():
        np.random.seed(3)  # noqa: NPY002 - where Keras on JAX draws its order from
        history = want.fit(
            ids, labels, batch_size=batch_size, epochs=epochs, shuffle=True, verbose=0
        ).history

    optimizer, _ = TRAINED[optimizer_name]
    loss_fn = classifier_loss(model)
    state = jaxrnn.init_state(params, optimizer)
    mask = ids != 0 if masked else None
    dataset = jax.device_put(Dataset(ids, labels, mask))
    np.random.seed(3)  # noqa: NPY002
    np.random.permutation(examples)  # noqa: NPY002 - the first `fit` draws one to build
    for epoch in range(epochs):
        order = np.random.permutation(examples)  # noqa: NPY002
        state, means = jaxrnn.train_epoch(
            state,
            dataset,
            jnp.asarray(order),
            loss_fn=loss_fn,
            optimizer=optimizer,
            batch_size=batch_size,
        )
        found = jaxrnn.metrics.values(means)
        assert found.keys() == history.keys()
        np.testing.assert_allclose(found["loss"], history["loss"][epoch], rtol=1e-5)
        hits = found["accuracy"] * examples, history["accuracy"][epoch] * examples
        np.testing.assert_allclose(*hits, atol=1e-3)  # the very same examples
    assert int(state.step) == epochs * 5
    names = [variable.path for variable in want.trainable_variables]
    assert_close(to_weights(state.params), get_weights(want), names, atol=1e-5, rtol=0)
