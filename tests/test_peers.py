"""Where do other libraries give something else than they should, and what do we give?

One named test for each case. It asserts the peer's behaviour too, so that a release
that changes it is noticed, and says what the peer does in its docstring.
"""

import inspect

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx
from keras_oracle import keras_rules

import jaxrnn
import jaxrnn.nnx

BATCH, TIME, IN_FEATURES, FEATURES = 3, 5, 2, 4
RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(BATCH, TIME, IN_FEATURES)), jnp.float32)


def assert_close(found, want):
    """Float32, a few sums of size one."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), found, want
    )


def linen(rnn, cell, inputs=INPUTS, **call):
    """What a layer of `rnn` returns, with the same variables whatever `rnn` is."""
    variables = jaxrnn.RNN(cell).init(jax.random.key(0), inputs)
    return rnn(cell).apply(variables, inputs, return_carry=True, **call)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_gru(torch):
    torch.manual_seed(0)
    gru = torch.nn.GRU(IN_FEATURES, FEATURES, batch_first=True)
    return gru, torch.tensor(np.asarray(INPUTS))


def torch_params(gru):
    """The weights of a PyTorch GRU in Keras' order: z, r, n for r, z, n."""

    def reordered(rows):
        r, z, n = np.split(rows.detach().numpy(), 3)
        return jnp.asarray(np.concatenate([z, r, n]).T)

    names = {
        "kernel": "weight_ih_l0",
        "recurrent_kernel": "weight_hh_l0",
        "bias": "bias_ih_l0",
        "recurrent_bias": "bias_hh_l0",
    }
    return {ours: reordered(getattr(gru, theirs)) for ours, theirs in names.items()}


# Lengths and masks.

LENGTHS = jnp.array([5, 2, 0])


def test_row_of_length_zero_in_linen():
    """`flax.linen.RNN` returns the carry of the last step, made of padding alone: it
    looks up the index 0 - 1.
    """
    carry, outputs = linen(nn.RNN, nn.GRUCell(FEATURES), seq_lengths=LENGTHS)
    np.testing.assert_array_equal(carry[2], outputs[2, -1])
    assert np.abs(carry[2]).max() > 0.01

    first = jnp.full((BATCH, FEATURES), 0.5)
    call = {"seq_lengths": LENGTHS, "initial_carry": first}
    carry, _ = linen(jaxrnn.RNN, nn.GRUCell(FEATURES), **call)
    np.testing.assert_array_equal(carry[2], first[2])


def test_row_of_length_zero_in_nnx():
    """`flax.nnx.RNN`: the same."""
    cell = nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
    call = {"seq_lengths": LENGTHS, "return_carry": True}
    carry, outputs = nnx.RNN(cell)(INPUTS, **call)
    np.testing.assert_array_equal(carry[2], outputs[2, -1])
    assert np.abs(carry[2]).max() > 0.01

    carry, _ = jaxrnn.nnx.RNN(cell)(INPUTS, **call)
    np.testing.assert_array_equal(carry[2], 0)


def test_row_of_length_zero_in_torch(torch):
    """`torch.nn.utils.rnn.pack_padded_sequence` raises, so a batch with one empty row
    needs a special case.
    """
    _, inputs = torch_gru(torch)
    lengths = torch.tensor(LENGTHS.tolist())
    with pytest.raises(RuntimeError, match="has to be greater than 0"):
        torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True)

    layer = jaxrnn.GRU(FEATURES)
    variables = layer.init(jax.random.key(0), INPUTS)
    np.testing.assert_array_equal(layer.apply(variables, INPUTS, lengths=LENGTHS)[2], 0)


@pytest.mark.parametrize("batch", [(2, 3), (2, 2)])
def test_lengths_with_several_batch_axes(batch):
    """`flax.linen.RNN` takes several batch axes, but with `seq_lengths` and
    `return_carry` it raises, or where the axes are of one size returns a carry with an
    axis too many.
    """
    inputs = jnp.asarray(RNG.normal(size=(*batch, TIME, IN_FEATURES)), jnp.float32)
    lengths = jnp.full(batch, 2)
    with jax.numpy_rank_promotion("allow"):
        if batch == (2, 3):
            with pytest.raises(ValueError, match="Incompatible shapes"):
                linen(nn.RNN, nn.GRUCell(FEATURES), inputs, seq_lengths=lengths)
        else:
            carry, _ = linen(nn.RNN, nn.GRUCell(FEATURES), inputs, seq_lengths=lengths)
            assert carry.shape == (2, 2, 2, FEATURES)

    carry, outputs = linen(
        jaxrnn.RNN, nn.GRUCell(FEATURES), inputs, seq_lengths=lengths
    )
    np.testing.assert_array_equal(carry, outputs[..., 1, :])


def test_left_padding_and_holes_in_linen_and_nnx():
    """Flax has no mask: lengths say right padding alone, and other padding is read as
    if it were input.
    """
    for rnn in (nn.RNN, nnx.RNN):
        assert "mask" not in inspect.signature(rnn.__call__).parameters
    padding = jnp.zeros((BATCH, 2, IN_FEATURES))
    holes = jnp.concatenate([padding, INPUTS[:, :2], padding, INPUTS[:, 2:]], axis=1)
    mask = jnp.array([False] * 2 + [True] * 2 + [False] * 2 + [True] * 3)
    mask = jnp.tile(mask, (BATCH, 1))
    carry, _ = linen(nn.RNN, nn.GRUCell(FEATURES))
    of_holes, _ = linen(nn.RNN, nn.GRUCell(FEATURES), holes)
    assert np.abs(carry - of_holes).max() > 0.01

    layer = jaxrnn.GRU(FEATURES)
    variables = layer.init(jax.random.key(0), INPUTS)
    found = layer.apply(variables, holes, mask=mask)
    assert_close(found, layer.apply(variables, INPUTS))


@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
def test_first_step_masked_and_unrolled_in_keras(name):
    """Keras with `unroll=True` differs from its own loop where the first steps are
    masked and an initial state is given: the outputs there are zeros, not those of the
    initial state, although the carry is held. From a zero state the two agree.
    """
    mask = np.ones((BATCH, TIME), bool)
    mask[0, :2] = mask[2] = False
    parts = 2 if name == "LSTM" else 1
    first = [np.full((BATCH, FEATURES), 0.5, np.float32)] * parts
    with keras_rules():
        options = {"return_sequences": True, "seed": 0}
        looped = getattr(keras.layers, name)(FEATURES, **options)
        unrolled = getattr(keras.layers, name)(FEATURES, unroll=True, **options)
        looped.build(INPUTS.shape)
        unrolled.build(INPUTS.shape)
        unrolled.set_weights([np.asarray(w.value) for w in looped.weights])
        by_loop, by_unrolling = (
            np.asarray(layer(INPUTS, mask=mask, initial_state=first))
            for layer in (looped, unrolled)
        )
        from_zero = [layer(INPUTS, mask=mask) for layer in (looped, unrolled)]
    early = (np.cumsum(mask, axis=1) == 0)[..., None]
    np.testing.assert_array_equal(np.where(early, by_unrolling, 0), 0)
    np.testing.assert_array_equal(np.where(early, by_loop, 0.5), 0.5)
    assert_close(np.where(early, 0, by_loop), np.where(early, 0, by_unrolling))
    assert_close(*map(np.asarray, from_zero))

    names = ["kernel", "recurrent_kernel", "bias"]
    weights = [jnp.asarray(weight.value) for weight in looped.weights]
    params = dict(zip(names, weights, strict=True))
    if name == "GRU":
        params["bias"], params["recurrent_bias"] = params["bias"]
    carry = jnp.asarray(first[0])
    carry = jaxrnn.LSTMCarry(carry, carry) if name == "LSTM" else carry
    for unroll in (1, TIME):
        layer = getattr(jaxrnn, name)(
            FEATURES,
            return_sequences=True,
            hold_outputs=True,
            solver=jaxrnn.Scan(unroll=unroll),
        )
        found = layer.apply({"params": params}, INPUTS, mask=mask, initial_carry=carry)
        assert_close(found, by_loop)


# Half precision.


@pytest.mark.parametrize("name", ["SimpleCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("flax", ["linen", "nnx"])
def test_carry_in_bfloat16(flax, name):
    """Cells with `dtype=bfloat16`, in either Flax: carry and outputs of gated cells are
    float32, as the initial carry is; SimpleCell raises from inside the loop.
    """

    def run(rnn):
        if flax == "linen":
            cell = getattr(nn, name)(FEATURES, dtype=jnp.bfloat16)
            return linen(rnn, cell)
        cell = getattr(nnx, name)(
            IN_FEATURES, FEATURES, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
        )
        return rnn(cell, return_carry=True)(INPUTS)

    theirs, ours = {
        "linen": (nn.RNN, jaxrnn.RNN),
        "nnx": (nnx.RNN, jaxrnn.nnx.RNN),
    }[flax]
    with jax.numpy_dtype_promotion("standard"):
        if name == "SimpleCell":
            with pytest.raises(TypeError, match=r"float32.*\n?.*bfloat16"):
                run(theirs)
        else:
            assert {x.dtype for x in jax.tree.leaves(run(theirs))} == {
                jnp.dtype("float32")
            }
    with jax.numpy_dtype_promotion("standard"):
        assert {x.dtype for x in jax.tree.leaves(run(ours))} == {jnp.dtype("bfloat16")}


# Options and parameters.


@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
def test_activity_regularizer_in_keras(name):
    """Keras' SimpleRNN takes an `activity_regularizer` and drops it without a word; its
    GRU and LSTM add the penalty to the loss.
    """
    regularizer = keras.regularizers.L2(0.1)
    with keras_rules():
        layer = getattr(keras.layers, name)(FEATURES, activity_regularizer=regularizer)
        outputs = np.asarray(layer(INPUTS))
        losses = [float(loss) for loss in layer.losses]
    penalty = jaxrnn.regularizers.activity_penalty(
        jnp.asarray(outputs), jaxrnn.regularizers.l2(0.1)
    )
    if name == "SimpleRNN":
        assert losses == []
        assert penalty.mean() > 0
    else:
        np.testing.assert_allclose(penalty.mean(), losses, rtol=1e-6)


def test_gru_without_a_hidden_bias_in_nnx(torch):
    """`flax.nnx.GRUCell` has no bias inside the reset gate's product, so the weights of
    a PyTorch (or Keras, `reset_after`) GRU do not fit into it. Linen's has one.
    """
    cell = nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
    assert "bias" not in nnx.to_pure_dict(nnx.state(cell))["dense_h"]
    linen_cell = nn.GRUCell(FEATURES)
    of_linen = linen_cell.init(jax.random.key(0), jnp.ones((1, 4)), jnp.ones((1, 2)))
    assert "bias" in of_linen["params"]["hn"]

    gru, inputs = torch_gru(torch)
    params = torch_params(gru)
    assert (
        np.abs(params["recurrent_bias"][2 * FEATURES :]).max() > 0.01
    )  # would be lost
    layer = jaxrnn.GRU(FEATURES, return_sequences=True)
    found = layer.apply({"params": params}, INPUTS)
    assert_close(found, gru(inputs)[0].detach().numpy())


# Derivatives.


def functional(rnn):
    """An NNX layer as a function of its parameters, split off for `jax.grad`."""
    layer = rnn(nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    return params, lambda params: nnx.merge(graph, params, rest)(INPUTS)


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_jax_transformation_of_nnx_rnn(transform):
    """`jax.grad` and `jax.vmap` with respect to the split-off parameters of
    `flax.nnx.RNN` raise: every call moves the count of a random stream, even for cells
    whose first carry is zeros. `nnx.grad`, or an `initial_carry`, works.
    """

    def run(rnn):
        params, apply = functional(rnn)
        if transform == "vmap":
            return jax.vmap(apply)(jax.tree.map(lambda x: x[None], params))
        return jax.grad(lambda params: apply(params).sum())(params)

    with pytest.raises(flax.errors.TraceContextError, match="RngCount"):
        run(nnx.RNN)

    found = run(jaxrnn.nnx.RNN)
    params, apply = functional(nnx.RNN)
    if transform == "vmap":
        assert_close(found[0], apply(params))
    else:
        layer = nnx.RNN(nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0)))
        want = nnx.grad(lambda layer: layer(INPUTS).sum())(layer)
        assert_close(nnx.to_pure_dict(found), nnx.to_pure_dict(want))


def test_vmap_of_torch_gru(torch):
    """`torch.func.vmap` of `torch.nn.GRU` raises, over inputs and over parameters: it
    has no batching rule. So neither seeds side by side nor gradients per example.
    """
    gru, inputs = torch_gru(torch)
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        torch.func.vmap(lambda row: gru(row)[0])(inputs)
    seeds = {k: torch.stack([v, v]) for k, v in gru.named_parameters()}
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        torch.func.vmap(lambda p: torch.func.functional_call(gru, p, (inputs,))[0])(
            seeds
        )

    layer = jaxrnn.GRU(FEATURES)
    variables = layer.init(jax.random.key(0), INPUTS)

    def loss(variables, row):
        return layer.apply(variables, row).sum()

    per_example = jax.vmap(jax.grad(loss), in_axes=(None, 0))(variables, INPUTS)
    whole = jax.grad(loss)(variables, INPUTS)
    assert_close(jax.tree.map(lambda x: x.sum(axis=0), per_example), whole)


def test_gradient_of_gradient_of_torch_gru(torch):
    """On a CPU PyTorch can: a second derivative through `torch.nn.GRU` is right. (Its
    documentation excludes cuDNN's kernels; ours are JAX on every platform.)
    """
    gru, inputs = torch_gru(torch)
    inputs.requires_grad_()
    (gradient,) = torch.autograd.grad(gru(inputs)[0].sum(), inputs, create_graph=True)
    (want,) = torch.autograd.grad((gradient**2).sum(), inputs)

    params = torch_params(gru)
    layer = jaxrnn.GRU(FEATURES, return_sequences=True)

    def summed(inputs):
        return layer.apply({"params": params}, inputs).sum()

    found = jax.grad(lambda inputs: jnp.sum(jax.grad(summed)(inputs) ** 2))(INPUTS)
    assert_close(found, want.numpy())
