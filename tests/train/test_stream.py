"""Is training on long streams truncated backpropagation, as PyTorch does it?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import metrics
from jaxrnn.data.batches import Batch, Dataset, streams
from jaxrnn.train import evaluate_stream, train_stream

BATCH, TIME, IN_FEATURES, FEATURES = 2, 11, 3, 4
CHUNK = 4  # 11 steps: 4, 4 and 3
SGD = optax.sgd(0.5)
RNG = np.random.default_rng(0)
STREAM = Dataset(
    RNG.standard_normal((BATCH, TIME, IN_FEATURES)).astype(np.float32),
    RNG.standard_normal((BATCH, TIME)).astype(np.float32),
)
LAYER = jaxrnn.SimpleRNN(FEATURES, return_sequences=True, return_carry=True)
ZEROS = np.zeros((BATCH, FEATURES), np.float32)


def new_params(key):
    params = LAYER.init(key, STREAM.inputs)["params"]
    return {"rnn": params, "head": jax.random.normal(key, (FEATURES,))}


def new_state(seed=0, optimizer=SGD):
    return jaxrnn.init_state(new_params(jax.random.key(seed)), optimizer)


def loss_fn(params, carry, batch, key=None, resets=None):
    """Regression at every step; with a key, dropout of the inputs by hand."""
    inputs = batch.inputs
    if key is not None:
        inputs = jnp.where(jax.random.bernoulli(key, 0.5, inputs.shape), inputs, 0)
    carry, outputs = LAYER.apply(
        {"params": params["rnn"]}, inputs, initial_carry=carry, resets=resets
    )
    error = outputs @ params["head"] - batch.targets
    loss = jaxrnn.Mean.of((error**2).ravel())
    size = jaxrnn.Mean.of(abs(error).ravel())
    return loss.value, (carry, {"loss": loss, "absolute_error": size})


def resets_loss_fn(params, carry, batch):
    return loss_fn(params, carry, batch["data"], resets=batch["resets"])


train = functools.partial(train_stream, loss_fn=loss_fn, optimizer=SGD, chunk=CHUNK)
evaluate = functools.partial(evaluate_stream, loss_fn=loss_fn)


def part_of(stream, first, last):
    return jax.tree.map(lambda x: x[:, first:last], stream)


def assert_close(found, want, rtol=2e-5):
    """Float32: a few dozen roundings, amplified by some ten steps."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), found, want
    )


@functools.cache
def python_loop(seed):
    """An oracle without `lax.scan`: a gradient per chunk, with noise, SGD by hand."""
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    noise_key = jax.random.key(seed)
    params, carry, squares = new_params(noise_key), ZEROS, 0.0
    for step, first in enumerate(range(0, TIME, CHUNK)):
        part = part_of(STREAM, first, first + CHUNK)
        key = jax.random.fold_in(noise_key, step)
        (loss, (carry, _)), gradients = gradient(params, carry, part, key)
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients)
        squares += loss * part.targets.size
    return params, carry, squares / STREAM.targets.size


def test_stream_is_pytorch_with_detach(x64):
    """In float64, where 1e-11 is rounding; full backpropagation differs by 1e-2."""
    torch = pytest.importorskip("torch")
    stream = jax.tree.map(lambda x: np.asarray(x, np.float64), STREAM)
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), new_params(jax.random.key(0))
    )
    carry = np.asarray(RNG.standard_normal(ZEROS.shape))

    rnn = torch.nn.RNN(IN_FEATURES, FEATURES, batch_first=True).double()
    head = torch.tensor(np.asarray(params["head"]), requires_grad=True)
    with torch.no_grad():
        kernel, recurrent_kernel, bias = (
            torch.tensor(np.asarray(params["rnn"][name]))
            for name in ("kernel", "recurrent_kernel", "bias")
        )
        rnn.weight_ih_l0.copy_(kernel.T)
        rnn.weight_hh_l0.copy_(recurrent_kernel.T)
        rnn.bias_ih_l0.copy_(bias)
        rnn.bias_hh_l0.zero_()
    rnn.bias_hh_l0.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in [*rnn.parameters(), head] if p.requires_grad], lr=0.5
    )
    hidden, squares = torch.tensor(carry)[None], 0.0
    for first in range(0, TIME, CHUNK):
        inputs, targets = (
            torch.tensor(x[:, first : first + CHUNK])
            for x in (stream.inputs, stream.targets)
        )
        hidden = hidden.detach()
        outputs, hidden = rnn(inputs, hidden)
        loss = ((outputs @ head - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        squares += loss.item() * targets.numel()

    state, carry, means = train(jaxrnn.init_state(params, SGD), carry, stream)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)
    close(carry, hidden[0].detach())
    close(state.params["head"], head.detach())
    close(state.params["rnn"]["kernel"].T, rnn.weight_ih_l0.detach())
    close(state.params["rnn"]["recurrent_kernel"].T, rnn.weight_hh_l0.detach())
    close(state.params["rnn"]["bias"], rnn.bias_ih_l0.detach())
    close(means["loss"].value, squares / STREAM.targets.size)
    assert state.step == 3


@pytest.mark.parametrize("chunk", [TIME, 50])
def test_one_chunk_is_full_backpropagation(chunk):
    def whole_loss_fn(params, batch):
        loss, (_, means) = loss_fn(params, ZEROS, batch)
        return loss, means

    state, _, means = train(new_state(), ZEROS, STREAM, chunk=chunk)
    want, want_means = jaxrnn.train_step(
        new_state(), Batch(*STREAM), loss_fn=whole_loss_fn, optimizer=SGD
    )
    assert state.step == 1
    assert_close(state, want)
    assert_close(means, want_means)
    truncated, *_ = train(new_state(), ZEROS, STREAM)
    assert not np.allclose(truncated.params["head"], state.params["head"], atol=1e-3)


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
@pytest.mark.slow
def test_many_models_with_noise_are_python_loops(over):
    """Another key for every chunk, another one for every model."""
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    params = jax.vmap(new_params)(keys)
    states = jax.vmap(lambda params: jaxrnn.init_state(params, SGD))(params)
    carries = jnp.stack([ZEROS, ZEROS])
    at_rest = evaluate(params, carries, STREAM, chunk=CHUNK, over=over)
    found = train(states, carries, STREAM, noise_key=keys, over=over)
    for i in range(2):
        want_params, want_carry, want_loss = python_loop(i)
        state, carry, means = jax.tree.map(lambda x, i=i: x[i], found)
        assert_close((state.params, carry), (want_params, want_carry))
        assert_close(means["loss"].value, want_loss)
        want = evaluate(new_params(keys[i]), ZEROS, STREAM, chunk=CHUNK)
        assert_close(jax.tree.map(lambda x, i=i: x[i], at_rest), want)


@pytest.mark.parametrize("chunk", [1, CHUNK, TIME, 50])
def test_means_and_carry_do_not_depend_on_the_chunk(chunk):
    """Of parameters at rest, whether they are evaluated or trained with no updates."""
    params, carry = new_params(jax.random.key(0)), ZEROS + 0.5
    _, want = loss_fn(params, carry, STREAM)
    assert_close(evaluate(params, carry, STREAM, chunk=chunk), want)
    still = optax.set_to_zero()
    state = new_state(optimizer=still)
    _, *found = train(state, carry, STREAM, optimizer=still, chunk=chunk)
    assert_close(tuple(found), want)
    assert found[1]["loss"].weight == BATCH * TIME


def test_segments_of_a_stream_are_the_stream():
    state, carry, sums = new_state(), ZEROS, []
    for first, last in ((0, 2 * CHUNK), (2 * CHUNK, TIME)):
        state, carry, means = train(state, carry, part_of(STREAM, first, last))
        sums.append(means)
    found = state, carry, {name: sums[0][name].add(sums[1][name]) for name in sums[0]}
    assert_close(found, train(new_state(), ZEROS, STREAM))


def test_stream_in_mixed_precision():
    """The carry stays in float32, as it came; bfloat16 has 8 bits: 1 %."""
    narrow = LAYER.clone(dtype=jnp.bfloat16)

    def narrow_loss_fn(params, carry, batch):
        carry, outputs = narrow.apply(
            {"params": params["rnn"]}, batch.inputs, initial_carry=carry
        )
        error = outputs.astype(jnp.float32) @ params["head"] - batch.targets
        loss = jaxrnn.Mean.of((error**2).ravel())
        return loss.value, (carry, {"loss": loss})

    state, carry, means = train(new_state(), ZEROS, STREAM, loss_fn=narrow_loss_fn)
    assert carry.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    _, want_carry, want = train(new_state(), ZEROS, STREAM)
    np.testing.assert_allclose(carry, want_carry, atol=0.03)
    np.testing.assert_allclose(means["loss"].value, want["loss"].value, rtol=0.02)
    assert not np.array_equal(carry, want_carry)


def test_resets_in_the_stream_restart_the_carry():
    """At the beginning of the second chunk: as if it were a stream of its own."""
    resets = np.zeros((BATCH, TIME), bool)
    resets[:, CHUNK] = True
    found, *_ = train(
        new_state(), ZEROS, {"data": STREAM, "resets": resets}, loss_fn=resets_loss_fn
    )
    state, _, _ = train(new_state(), ZEROS, part_of(STREAM, 0, CHUNK))
    want, _, _ = train(state, ZEROS, part_of(STREAM, CHUNK, TIME))
    assert_close(found, want)
    without, *_ = train(new_state(), ZEROS, STREAM)
    assert not np.allclose(without.params["head"], found.params["head"], atol=1e-3)


def test_a_pass_compiles_once_and_moves_nothing():
    traced = []

    def counted(params, carry, batch):
        traced.append(batch.inputs.shape[1])
        return loss_fn(params, carry, batch)

    stream, carry = jax.device_put((STREAM, ZEROS))
    before = train_stream._cache_size()
    state = new_state()
    with_zeros, *_ = train(state, carry, stream, loss_fn=counted)
    assert state.params["head"].is_deleted()  # donated
    with jax.transfer_guard("disallow"):
        train(with_zeros, carry, stream, loss_fn=counted)  # the carry stays usable
    assert train_stream._cache_size() == before + 1
    assert sorted(set(traced)) == [TIME % CHUNK, CHUNK]


# Streams.


@pytest.mark.parametrize(
    ("length", "batch_size"), [(2, 1), (2, 3), (25, 2), (25, 4), (26, 4), (27, 4)]
)
@pytest.mark.parametrize("rest", [(), (2,)])
def test_every_element_but_the_first_is_a_target_once(length, batch_size, rest):
    sequence = 1 + np.arange(length * int(np.prod(rest))).reshape(length, *rest)
    stream = streams(sequence, batch_size)
    assert stream.targets.shape == (batch_size, -(-(length - 1) // batch_size), *rest)
    weight = stream.sample_weight.ravel()
    assert weight.tolist() == sorted(weight, reverse=True)  # the filler comes last
    for found, want in ((stream.inputs, sequence[:-1]), (stream.targets, sequence[1:])):
        rows = found.reshape(-1, *rest)
        np.testing.assert_array_equal(rows[weight == 1], want)
        assert not rows[weight == 0].any()
        assert np.shares_memory(found, sequence) == ((length - 1) % batch_size == 0)


def test_filler_weighs_nothing():
    """The loss over words is that of one stream from zero carries, row by row."""
    series = RNG.standard_normal((10, IN_FEATURES)).astype(np.float32)
    stream = streams(series, BATCH)  # 9 targets, 5 and 4

    def weighted(params, carry, batch):
        carry, outputs = LAYER.apply({"params": params}, batch.inputs)
        error = (outputs.sum(axis=-1) - batch.targets[..., 0]) ** 2
        loss = jaxrnn.Mean.of(error.ravel(), batch.sample_weight.ravel())
        return loss.value, (carry, {"loss": loss})

    params = new_params(jax.random.key(0))["rnn"]
    _, means = evaluate(params, ZEROS, stream, chunk=50, loss_fn=weighted)
    errors = []
    for first, last in ((0, 5), (5, 9)):
        _, outputs = LAYER.apply({"params": params}, series[None, first:last])
        errors.extend((outputs[0].sum(axis=1) - series[first + 1 : last + 1, 0]) ** 2)
    np.testing.assert_allclose(
        metrics.values(means)["loss"], np.mean(errors), rtol=1e-5
    )
    assert means["loss"].weight == 9


# Bad input.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        (
            {"stream": STREAM._replace(targets=STREAM.targets[:, 1:])},
            r"same leading axes \(batch, time\).*\(2, 11, 3\), \(2, 10\)",
        ),
        (
            {"stream": STREAM._replace(sample_weight=np.ones(2, np.float32))},
            r"got shapes .*\(2,\)\]; a sample_weight weighs each step",
        ),
        ({"stream": part_of(STREAM, 0, 0)}, "none of them empty"),
    ],
)
def test_bad_streams_are_explained(changes, words):
    stream = changes.get("stream", STREAM)
    chunk = changes.get("chunk", CHUNK)
    with pytest.raises(ValueError, match=words):
        train(new_state(), ZEROS, stream, chunk=chunk)
    with pytest.raises(ValueError, match=words):
        evaluate(new_params(jax.random.key(0)), ZEROS, stream, chunk=chunk)


def test_bad_sequences_are_explained():
    with pytest.raises(ValueError, match=r"at least two elements.*got shape \(1, 3\)"):
        streams(np.zeros((1, 3)), 1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        streams(np.zeros(5), 0)
