"""Do the Linen layers and models carry the core's numbers, and explain bad input?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn

LAYERS = [jaxrnn.SimpleRNN, jaxrnn.GRU, jaxrnn.LSTM]
ALL_LAYERS = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
INPUTS = jax.random.normal(jax.random.key(0), (5, 7, 3))
LENGTHS = jnp.array([7, 3, 1, 5, 2])
RIGHT_PADDED = jaxrnn.lengths_to_mask(LENGTHS, 7).T


def assert_close(found, want):
    """Float32: a few roundings of numbers of size one."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), found, want
    )


def flax_twin(layer, params):
    """Flax' cell with the same parameters, and how to read its carry."""
    kernel, recurrent = params["kernel"], params["recurrent_kernel"]
    bias = params["bias"]
    if layer is jaxrnn.SimpleRNN:
        cell = nn.SimpleCell(4)
        return cell, {
            "i": {"kernel": kernel, "bias": bias},
            "h": {"kernel": recurrent},
        }
    if layer is jaxrnn.LSTM:
        gates = zip(
            "ifgo",
            *(jnp.split(x, 4, axis=-1) for x in (kernel, recurrent, bias)),
            strict=True,
        )
        twin = {}
        for gate, w, u, b in gates:
            twin |= {f"i{gate}": {"kernel": w}, f"h{gate}": {"kernel": u, "bias": b}}
        return nn.LSTMCell(4), twin
    gates = zip(
        "zrn",
        *(
            jnp.split(x, 3, axis=-1)
            for x in (kernel, recurrent, bias, params["recurrent_bias"])
        ),
        strict=True,
    )
    twin = {}
    for gate, w, u, b, c in gates:
        if gate == "n":  # Flax keeps the recurrent bias of the candidate alone
            twin |= {"in": {"kernel": w, "bias": b}, "hn": {"kernel": u, "bias": c}}
        else:
            twin |= {
                f"i{gate}": {"kernel": w, "bias": b + c},
                f"h{gate}": {"kernel": u},
            }
    return nn.GRUCell(4), twin


@pytest.mark.parametrize("reverse", [False, True])
@ALL_LAYERS
def test_layer_is_that_of_flax(layer, reverse):
    module = layer(4, return_sequences=True, return_carry=True, reverse=reverse)
    params = module.init(jax.random.key(1), INPUTS)["params"]
    params = jax.tree.map(  # no bias of zeros, which would hide it
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params
    )
    carry, outputs = module.apply({"params": params}, INPUTS)
    cell, twin = flax_twin(layer, params)
    want_carry, want = nn.RNN(
        cell, return_carry=True, reverse=reverse, keep_order=True
    ).apply({"params": {"cell": twin}}, INPUTS)
    if layer is jaxrnn.LSTM:  # Flax has (memory, hidden)
        want_carry = jaxrnn.LSTMCarry(want_carry[1], want_carry[0])
    assert_close((carry, outputs), (want_carry, want))


@ALL_LAYERS
def test_mask_is_flax_lengths(layer):
    module = layer(4, return_sequences=True)
    variables = module.init(jax.random.key(1), INPUTS)
    found = module.apply(variables, INPUTS, mask=RIGHT_PADDED)
    cell, twin = flax_twin(layer, variables["params"])
    want = nn.RNN(cell).apply({"params": {"cell": twin}}, INPUTS, seq_lengths=LENGTHS)
    assert_close(found, jnp.where(RIGHT_PADDED[..., None], want, 0))


@ALL_LAYERS
def test_last_output_is_that_of_the_last_valid_step(layer):
    variables = layer(4).init(jax.random.key(1), INPUTS)
    last = layer(4).apply(variables, INPUTS, mask=RIGHT_PADDED)
    outputs = layer(4, return_sequences=True).apply(
        variables, INPUTS, mask=RIGHT_PADDED
    )
    assert_close(last, outputs[jnp.arange(5), LENGTHS - 1])


@ALL_LAYERS
def test_returned_carry_goes_in_again(layer):
    module = layer(4, return_carry=True)
    variables = module.init(jax.random.key(1), INPUTS)
    whole = module.apply(variables, INPUTS)
    carry, _ = module.apply(variables, INPUTS[:, :3])
    assert_close(module.apply(variables, INPUTS[:, 3:], initial_carry=carry), whole)


@ALL_LAYERS
def test_unbatched_and_twice_batched_inputs(layer):
    module = layer(4, return_sequences=True)
    variables = module.init(jax.random.key(1), INPUTS)
    want = module.apply(variables, INPUTS, mask=RIGHT_PADDED)
    one = module.apply(variables, INPUTS[1], mask=RIGHT_PADDED[1])
    assert_close(one, want[1])
    two = module.apply(variables, INPUTS[None], mask=RIGHT_PADDED[None])
    assert_close(two, want[None])


@ALL_LAYERS
def test_param_dtype_and_dtype(layer):
    module = layer(4, dtype=jnp.bfloat16, return_carry=True)
    variables = module.init(jax.random.key(1), INPUTS)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    low = module.apply(variables, INPUTS)
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}
    high = layer(4, return_carry=True).apply(variables, INPUTS)
    # bfloat16 has 8 bits: 2^-8 a rounding, seven steps.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x.astype("float32"), y, atol=0.03),
        low,
        high,
    )


def test_initializers_are_chosen_by_name():
    module = jaxrnn.GRU(
        4,
        kernel_init=nn.initializers.ones,
        recurrent_kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(2.0),
    )
    params = module.init(jax.random.key(1), INPUTS)["params"]
    assert {name: set(np.unique(x)) for name, x in params.items()} == {
        "kernel": {1},
        "recurrent_kernel": {0},
        "bias": {2},
        "recurrent_bias": {2},
    }


@pytest.mark.parametrize("solver", [jaxrnn.Scan(), jaxrnn.HoistedScan()], ids=repr)
def test_solver_of_the_layer_is_used(solver):
    variables = jaxrnn.SimpleRNN(4).init(jax.random.key(1), INPUTS)

    def run(inputs):
        return jaxrnn.SimpleRNN(4, solver=solver).apply(variables, inputs).sum()

    jaxpr = str(jax.make_jaxpr(run)(INPUTS))
    assert ("custom_jvp_call" in jaxpr) == isinstance(solver, jaxrnn.HoistedScan)


def test_same_module_compiles_once():
    """A cell from a cached builder is the same static argument every time."""
    traces = []

    def activation(x):
        traces.append(x.shape)
        return jnp.tanh(x)

    variables = jaxrnn.SimpleRNN(4).init(jax.random.key(1), INPUTS)
    for _ in range(3):
        jaxrnn.SimpleRNN(4, activation=activation).apply(variables, INPUTS)
    assert len(traces) == 2  # checked, then compiled


def test_recurrent_needs_a_cell():
    with pytest.raises(ValueError, match="needs the cell it is to run, got None"):
        jaxrnn.Recurrent(4).init(jax.random.key(0), INPUTS)


# Ids.


def test_embed_looks_up_rows():
    embed = jaxrnn.Embed(10, 3)
    ids = jnp.array([[0, 9], [4, 4]])
    variables = embed.init(jax.random.key(0), ids)
    want = np.asarray(variables["params"]["embedding"])[np.asarray(ids)]
    np.testing.assert_array_equal(embed.apply(variables, ids), want)


@pytest.mark.parametrize(
    ("ids", "found"), [([[0, 10]], "0 to 10"), ([[-1, 3]], "-1 to 3")]
)
def test_ids_outside_the_vocabulary(ids, found):
    model = jaxrnn.TextClassifier(10, 3, jaxrnn.SimpleRNN(4))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2), int))
    with pytest.raises(ValueError, match=rf"\[0, 10\), found {found}"):
        model.apply(variables, jnp.array(ids))
    # Inside of jit nothing can raise: the answer is NaN, not a wrong row.
    assert np.isnan(jax.jit(model.apply)(variables, jnp.array(ids))).all()


# Models.

TEXT = jaxrnn.TextClassifier(10, 3, jaxrnn.LSTM(4), hidden_features=5)
FLAT = jaxrnn.FlattenClassifier(10, 3, hidden_features=5)
FORECAST = jaxrnn.Forecaster(jaxrnn.GRU(4), hidden_features=5)
IDS = jnp.ones((2, 6), int)


def test_text_classifier_is_its_parts():
    variables = TEXT.init(jax.random.key(0), IDS)
    params = variables["params"]
    mask = jnp.array([[True] * 6, [False] * 2 + [True] * 4])
    features = params["embed"]["embedding"][IDS]
    features = jaxrnn.LSTM(4).apply(
        {"params": params["recurrent"]}, features, mask=mask
    )
    hidden = nn.Dense(5).apply({"params": params["hidden"]}, features)
    logits = nn.Dense(1).apply({"params": params["head"]}, jax.nn.sigmoid(hidden))
    assert_close(TEXT.apply(variables, IDS, mask=mask), logits[:, 0])


@pytest.mark.parametrize(
    ("model", "inputs", "error", "words"),
    [
        (TEXT, IDS[0], ValueError, r"axes \(batch, time\), got shape \(6,\)"),
        (TEXT, IDS.astype(float), TypeError, "ids must be integers, got float32"),
        (FLAT, IDS[None], ValueError, r"got shape \(1, 2, 6\)"),
        (FORECAST, jnp.ones((2, 6)), ValueError, r"\(batch, time, in_features\)"),
        (FORECAST, jnp.ones((2, 6, 1), int), TypeError, "floating point, got int32"),
        (jaxrnn.GRU(4), jnp.ones(3), ValueError, r"axes \(\*batch, time, in_feat"),
    ],
)
def test_bad_input_is_explained(model, inputs, error, words, untyped):
    with pytest.raises(error, match=words):
        untyped(model.init)(jax.random.key(0), inputs)


def test_wrong_mask_is_explained(untyped):
    model = jaxrnn.GRU(4)
    variables = model.init(jax.random.key(0), INPUTS)
    with pytest.raises(ValueError, match=r"\(5, 7\), got \(7, 5\)"):
        untyped(model.apply)(variables, INPUTS, mask=RIGHT_PADDED.T)


def test_known_ids_inside_a_trace():
    """Ids closed over by a traced function are known, and may be looked at."""
    variables = TEXT.init(jax.random.key(0), IDS)
    want = TEXT.apply(variables, IDS)
    assert_close(jax.jit(lambda v: TEXT.apply(v, IDS))(variables), want)
    shapes = jax.eval_shape(lambda key: TEXT.init(key, IDS), jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    too_large = 10 * IDS
    with pytest.raises(ValueError, match="found 10 to 10"):
        jax.jit(lambda v: TEXT.apply(v, too_large))(variables)
