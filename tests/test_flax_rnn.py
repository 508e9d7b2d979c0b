"""Is `RNN` the drop-in it says it is? Flax' own classes give the numbers, at test time.

Every comparison makes the variables with one class and runs both on them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nnx

TIME, IN_FEATURES, FEATURES = 5, 2, 3
SIMPLE_CELLS = {
    "SimpleCell": nn.SimpleCell(FEATURES),
    "GRUCell": nn.GRUCell(FEATURES),
    "LSTMCell": nn.LSTMCell(FEATURES),
    "OptimizedLSTMCell": nn.OptimizedLSTMCell(FEATURES),
    "MGUCell": nn.MGUCell(FEATURES),
    # two feature axes: (batch, time, width, features)
    "ConvLSTMCell": nn.ConvLSTMCell(FEATURES, kernel_size=(2,)),
}
LENGTHS = jnp.array([5, 2, 1])

# name: (batch shape, arguments of the class, arguments of the call). Flax raises where
# seq_lengths and return_carry meet several batch axes, or none (tests/test_peers.py).
OPTIONS = {
    "plain": ((3,), {"keep_order": True}, {}),  # of no account without reverse
    "no_batch_axis": ((), {"unroll": 2}, {"return_carry": True}),
    "batch_axes": ((3, 2), {"reverse": True, "keep_order": True}, {}),
    "lengths": ((3,), {"return_carry": True}, {"seq_lengths": LENGTHS}),
    "lengths_time_major_reverse": (
        (3,),
        {"time_major": True, "reverse": True},
        {"seq_lengths": LENGTHS, "return_carry": True},
    ),
    "lengths_reverse_keep_order": (
        (3,),
        {"return_carry": True, "unroll": 5},
        {"seq_lengths": LENGTHS, "reverse": True, "keep_order": True},
    ),
    "time_major_batch_axes": (
        (2, 3),
        {"return_carry": True},
        {"time_major": True, "reverse": True, "keep_order": True},
    ),
    "lengths_batch_axes": (
        (2, 3),
        {"reverse": True},
        {"seq_lengths": jnp.array([[5, 2, 1], [3, 4, 5]])},
    ),
    "arguments_before_attributes": (
        (3,),
        {"return_carry": True, "time_major": True, "reverse": True},
        {"return_carry": False, "time_major": False, "reverse": False},
    ),
    "carry_is_given": ((3,), {"return_carry": True}, {"initial_carry": None}),
}
CASES = [("GRUCell", options) for options in OPTIONS] + [
    (cell, options)
    for cell in SIMPLE_CELLS
    if cell != "GRUCell"
    for options in ("lengths_time_major_reverse", "carry_is_given")
]
ALL_CASES = pytest.mark.parametrize(("cell", "options"), CASES)


def assert_close(found, want):
    """Sums of a few products of size one, in float32: a few roundings of 1e-7."""
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    jax.tree.map(close, found, want)


def random_like(tree, seed):
    """Arrays away from zero in place of those of `tree`, or of their shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), tree
    )


def variables_of(layer, inputs, **call):
    init = functools.partial(layer.init, **call)
    return random_like(jax.eval_shape(init, jax.random.key(1), inputs), 1)


def inputs_of(cell, batch, time_major):
    features = (IN_FEATURES,) if cell.num_feature_axes == 1 else (4, IN_FEATURES)
    shape = (TIME, *batch) if time_major else (*batch, TIME)
    return random_like(jax.ShapeDtypeStruct((*shape, *features), np.float32), 0)


def given_carry(call, cell, batch, inputs):
    """What `initial_carry=None` in the table stands for: a random one."""
    if "initial_carry" not in call:
        return call
    step_shape = (*batch, *inputs.shape[len(batch) + 1 :])
    carry = cell(step_shape)
    return call | {"initial_carry": random_like(carry, 2)}


def weighted(result):
    """A scalar that every output and carry enters unevenly."""
    leaves = jax.tree.leaves(result)
    return sum(
        jnp.sum(jnp.linspace(-1, 1, x.size).reshape(x.shape) * jnp.tanh(x))
        for x in leaves
    )


def values_and_gradients(layer, variables, inputs, **call):
    """Of `layer.apply`: what it returns, and gradients of variables and inputs."""

    @jax.jit
    def run(variables, inputs):
        def loss(variables, inputs):
            result = layer.apply(variables, inputs, **call)
            return weighted(result), result

        run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, result), gradients = run(variables, inputs)
        return result, gradients

    return run(variables, inputs)


# Linen.


@ALL_CASES
def test_linen(cell, options):
    cell, (batch, attributes, call) = SIMPLE_CELLS[cell], OPTIONS[options]
    time_major = {"time_major": False, **attributes, **call}["time_major"]
    inputs = inputs_of(cell, batch, time_major)
    call = given_carry(
        call,
        lambda shape: cell.initialize_carry(jax.random.key(0), shape),
        batch,
        inputs,
    )
    theirs, ours = nn.RNN(cell, **attributes), jaxrnn.RNN(cell, **attributes)
    variables = variables_of(theirs, inputs, **call)
    found = values_and_gradients(ours, variables, inputs, **call)
    want = values_and_gradients(theirs, variables, inputs, **call)
    assert_close(found, want)


@pytest.mark.parametrize("cell", SIMPLE_CELLS)
def test_linen_makes_the_same_variables(cell):
    cell = SIMPLE_CELLS[cell]
    inputs = inputs_of(cell, (3,), time_major=False)
    theirs = nn.RNN(cell).init(jax.random.key(1), inputs)
    ours = jaxrnn.RNN(cell).init(jax.random.key(1), inputs)
    assert list(ours["params"]) == ["cell"]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("init_key", [None, 3])
def test_linen_draws_the_same_random_carry(init_key):
    cell = nn.GRUCell(FEATURES, carry_init=nn.initializers.normal())
    key = None if init_key is None else jax.random.key(init_key)
    inputs = inputs_of(cell, (3,), time_major=False)
    variables = nn.RNN(cell).init(jax.random.key(1), inputs)
    found, want = (
        rnn(cell).apply(variables, inputs, init_key=key) for rnn in (jaxrnn.RNN, nn.RNN)
    )
    assert_close(found, want)


@pytest.mark.parametrize("reverse", [False, True])
def test_linen_is_a_loop_over_steps(reverse):
    """Neither class, but the cell itself, one row and one valid step at a time."""
    cell = nn.LSTMCell(FEATURES)
    inputs = inputs_of(cell, (3,), time_major=False)
    layer = jaxrnn.RNN(cell, return_carry=True, reverse=reverse, keep_order=True)
    variables = variables_of(layer, inputs)
    carry, outputs = layer.apply(variables, inputs, seq_lengths=LENGTHS)
    of_cell = {"params": variables["params"]["cell"]}
    step = jax.jit(functools.partial(cell.apply, of_cell))
    for row, length in enumerate(LENGTHS.tolist()):
        one = cell.initialize_carry(jax.random.key(0), (IN_FEATURES,))
        for t in range(length)[:: -1 if reverse else 1]:
            one, output = step(one, inputs[row, t])
            assert_close(outputs[row, t], output)
        assert_close(jax.tree.map(lambda x, row=row: x[row], carry), one)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_lengths_of_any_integers_are_those_of_int32(dtype):
    """A row of length 0 keeps its initial carry: its index is -1, also of unsigned."""
    inputs = inputs_of(nn.LSTMCell(FEATURES), (3,), time_major=False)
    lengths = np.array([TIME, 0, 2], dtype)
    layer = jaxrnn.RNN(jaxrnn.lstm, features=FEATURES, return_carry=True)
    apply = functools.partial(layer.apply, variables_of(layer, inputs), inputs)
    options = {"in_features": IN_FEATURES, "features": FEATURES, "rngs": nnx.Rngs(0)}
    of_nnx = jaxrnn.nnx.RNN(jaxrnn.lstm, return_carry=True, **options)
    for run in (apply, functools.partial(of_nnx, inputs)):
        for order in ({}, {"reverse": True, "keep_order": True}):
            want = run(seq_lengths=jnp.asarray(lengths, jnp.int32), **order)
            assert not np.any(want[0].hidden[1])
            jax.tree.map(
                np.testing.assert_array_equal, run(seq_lengths=lengths, **order), want
            )


@pytest.mark.parametrize(
    ("shared", "merge", "call"),
    [
        (False, None, {"seq_lengths": LENGTHS, "return_carry": True}),
        (True, jnp.add, {"time_major": True, "return_carry": True}),
        (True, jnp.maximum, {}),
    ],
)
def test_linen_in_bidirectional(shared, merge, call):
    """`flax.linen.Bidirectional`, with two cells or one, and any merge_fn."""
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), call.get("time_major", False))
    options = {} if merge is None else {"merge_fn": merge}

    def both_ways(rnn):
        forward = nn.LSTMCell(FEATURES)
        backward = forward if shared else nn.LSTMCell(FEATURES)
        return nn.Bidirectional(rnn(forward), rnn(backward), **options)

    variables = variables_of(both_ways(nn.RNN), inputs)
    found = values_and_gradients(both_ways(jaxrnn.RNN), variables, inputs, **call)
    want = values_and_gradients(both_ways(nn.RNN), variables, inputs, **call)
    assert_close(found, want)


class Noisy(nn.RNNCellBase):
    """A cell with dropout, with a count that goes on, and with statistics of steps."""

    @nn.compact
    def __call__(self, carry, inputs):
        inputs = nn.Dropout(0.5, deterministic=False)(inputs)
        carry, output = nn.GRUCell(FEATURES)(carry, inputs)
        steps = self.variable("counts", "steps", lambda: jnp.zeros((), jnp.int32))
        largest = self.variable("seen", "largest", lambda: jnp.zeros(()))
        if not self.is_initializing():
            steps.value += 1
            largest.value = jnp.max(jnp.abs(output))
        return carry, output

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], FEATURES))

    @property
    def num_feature_axes(self):
        return 1


@pytest.mark.parametrize("every_step", [False, True])
def test_linen_cell_with_other_collections(every_step):
    """Dropout with one mask for all steps or one for each, a carried collection and a
    stacked one, by the arguments of `flax.linen.scan`.
    """
    options = {
        "variable_axes": {"seen": 0},
        "variable_carry": "counts",
        "split_rngs": {"params": False, "dropout": every_step},
    }
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    theirs, ours = nn.RNN(Noisy(), **options), jaxrnn.RNN(Noisy(), **options)
    made = Noisy().init(rngs, jnp.zeros((3, FEATURES)), inputs[:, 0])
    variables = {name: {"cell": made[name]} for name in ("params", "counts")}
    found, want = (
        layer.apply(variables, inputs, rngs=rngs, mutable=["counts", "seen"])
        for layer in (ours, theirs)
    )
    assert_close(found, want)
    assert want[1]["counts"]["cell"]["steps"] == TIME
    assert want[1]["seen"]["cell"]["largest"].shape == (TIME,)


# The cells of jaxrnn.


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "mgu"])
def test_cell_of_jaxrnn_is_its_layer(name, reverse):
    """Valid outputs and the carry are the layer's; at padding a layer has zeros."""
    cell = getattr(jaxrnn, name)
    drop_in = jaxrnn.RNN(
        cell, features=4, return_carry=True, reverse=reverse, keep_order=True
    )
    layer = jaxrnn.Recurrent(
        4, cell=cell, return_sequences=True, return_carry=True, reverse=reverse
    )
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    variables = variables_of(layer, inputs)
    carry, outputs = drop_in.apply(variables, inputs, seq_lengths=LENGTHS)
    last, want = layer.apply(variables, inputs, lengths=LENGTHS)
    valid = np.arange(TIME) < np.asarray(LENGTHS)[:, None]
    assert_close(carry, last)
    assert_close(outputs[valid], want[valid])


def test_settings_that_a_cell_would_ignore():
    """Those of Flax for a cell of jaxrnn, and the other way round."""
    with pytest.raises(ValueError, match=r"gru needs features, .* RNN\(cell, features"):
        jaxrnn.RNN(jaxrnn.gru)
    of_flax = [
        {"unroll": 2},
        {"variable_axes": {"seen": 0}},
        {"variable_broadcast": ["params", "seen"]},
        {"variable_carry": "counts"},
        {"split_rngs": {"params": True}},
    ]
    for setting in of_flax:
        with pytest.raises(
            ValueError, match=f"{next(iter(setting))} is .* of Flax cells"
        ):
            jaxrnn.RNN(jaxrnn.gru, features=3, **setting)
    for setting in ({"features": 3}, {"solver": jaxrnn.Scan()}):
        with pytest.raises(ValueError, match="is a setting of jaxrnn cells"):
            jaxrnn.RNN(nn.GRUCell(3), **setting)
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="needs in_features, features and rngs"):
        jaxrnn.nnx.RNN(jaxrnn.gru, features=3, rngs=rngs)
    with pytest.raises(ValueError, match="broadcast_rngs is a setting of Flax cells"):
        jaxrnn.nnx.RNN(
            jaxrnn.gru, in_features=2, features=3, broadcast_rngs="dropout", rngs=rngs
        )


# Layers of ours where Flax expects an RNN, and the other way round.

CALLS = [
    {"seq_lengths": LENGTHS, "return_carry": True},
    {"time_major": True, "return_carry": True},
    {},
]


def valid_outputs(result, lengths):
    """At padding our layers have zeros."""
    carry, outputs = result if isinstance(result, tuple) else (None, result)
    if lengths is not None:
        outputs = jnp.where(
            jnp.arange(TIME)[None, :, None] < lengths[:, None, None], outputs, 0
        )
    return carry, outputs


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_layers_stand_in_bidirectional_of_flax_linen(call):
    """As `RNN` with the same cells does, which is Flax' own by the tests above."""
    options = {"return_sequences": True}
    ours = nn.Bidirectional(
        jaxrnn.LSTM(FEATURES, **options),
        jaxrnn.Recurrent(FEATURES, cell=jaxrnn.mgu, **options),
    )
    theirs = nn.Bidirectional(
        jaxrnn.RNN(jaxrnn.lstm, features=FEATURES),
        jaxrnn.RNN(jaxrnn.mgu, features=FEATURES),
    )
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), call.get("time_major", False))
    variables = variables_of(theirs, inputs)
    found = ours.apply(variables, inputs, **call)
    want = theirs.apply(variables, inputs, **call)
    lengths = call.get("seq_lengths")
    assert_close(valid_outputs(found, lengths), valid_outputs(want, lengths))


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_layers_stand_in_bidirectional_of_flax_nnx(call):
    rngs = nnx.Rngs(0)
    layers = [
        jaxrnn.nnx.GRU(IN_FEATURES, FEATURES, return_sequences=True, rngs=rngs)
        for _ in range(2)
    ]
    rnns = [
        jaxrnn.nnx.RNN(
            jaxrnn.gru, in_features=IN_FEATURES, features=FEATURES, rngs=rngs
        )
        for _ in range(2)
    ]
    for layer, rnn in zip(layers, rnns, strict=True):
        nnx.update(rnn, nnx.state(layer, nnx.Param))
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), call.get("time_major", False))
    found = nnx.Bidirectional(*layers, rngs=rngs)(inputs, **call)
    want = nnx.Bidirectional(*rnns, rngs=rngs)(inputs, **call)
    lengths = call.get("seq_lengths")
    assert_close(valid_outputs(found, lengths), valid_outputs(want, lengths))


def test_rnn_stands_in_our_bidirectional():
    """With the numbers of Flax' own Bidirectional, Linen and NNX."""
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    options = {"return_carry": True}
    theirs = nn.Bidirectional(
        nn.RNN(nn.LSTMCell(FEATURES)), nn.RNN(nn.LSTMCell(FEATURES)), **options
    )
    variables = variables_of(theirs, inputs)
    want_carry, want = theirs.apply(variables, inputs, seq_lengths=LENGTHS)
    want = valid_outputs((want_carry, want), LENGTHS)
    ours = jaxrnn.Bidirectional(jaxrnn.RNN(nn.LSTMCell(FEATURES), **options))
    params = variables["params"]
    params = {"forward": params["forward_rnn"], "reverse": params["backward_rnn"]}
    assert_close(ours.apply({"params": params}, inputs, lengths=LENGTHS), want)

    cells = [nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(i)) for i in range(2)]
    call = {"seq_lengths": LENGTHS, "return_carry": True}
    want = nnx.Bidirectional(*map(nnx.RNN, cells))(inputs, **call)
    rnns = [jaxrnn.nnx.RNN(cell, return_carry=True) for cell in cells]
    found = jaxrnn.nnx.Bidirectional(*rnns)(inputs, lengths=LENGTHS)
    assert_close(found, valid_outputs(want, LENGTHS))


def test_rnn_with_two_feature_axes_is_called_by_itself():
    layer = jaxrnn.Bidirectional(jaxrnn.RNN(SIMPLE_CELLS["ConvLSTMCell"]))
    with pytest.raises(ValueError, match="one feature axis, got one with 2"):
        layer.init(jax.random.key(0), jnp.ones((3, TIME, 4, 2)))


# NNX.

NNX_CELLS = {
    name: getattr(nnx, name)
    for name in ("SimpleCell", "GRUCell", "LSTMCell", "OptimizedLSTMCell")
}
NNX_CASES = [(cell, options) for cell, options in CASES if cell in NNX_CELLS]


def nnx_gradients(layer, inputs, **call):
    """What the layer returns, and the gradients of its parameters by `nnx.grad`."""

    @nnx.jit
    def run(layer, inputs):
        def loss(layer):
            result = layer(inputs, **call)
            return weighted(result), result

        gradients, result = nnx.grad(loss, has_aux=True)(layer)
        return result, nnx.to_pure_dict(gradients)

    return run(layer, inputs)


@pytest.mark.parametrize(("cell", "options"), NNX_CASES)
def test_nnx(cell, options):
    batch, attributes, call = OPTIONS[options]
    cell = NNX_CELLS[cell](IN_FEATURES, FEATURES, rngs=nnx.Rngs(1))
    time_major = {"time_major": False, **attributes, **call}["time_major"]
    inputs = inputs_of(cell, batch, time_major)
    call = given_carry(
        call, lambda shape: cell.initialize_carry(shape, nnx.Rngs(0)), batch, inputs
    )
    found, want = (
        nnx_gradients(rnn(cell, **attributes), inputs, **call)
        for rnn in (jaxrnn.nnx.RNN, nnx.RNN)
    )
    assert_close(found, want)


def test_nnx_in_bidirectional():
    rngs = nnx.Rngs(1)
    cells = [nnx.GRUCell(IN_FEATURES, FEATURES, rngs=rngs) for _ in range(2)]
    inputs = inputs_of(cells[0], (3,), time_major=False)
    found, want = (
        nnx_gradients(
            nnx.Bidirectional(*map(rnn, cells), rngs=rngs),
            inputs,
            seq_lengths=LENGTHS,
            return_carry=True,
        )
        for rnn in (jaxrnn.nnx.RNN, nnx.RNN)
    )
    assert_close(found, want)


class Counting(nnx.GRUCell):
    """A cell that changes something in itself at each step."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.steps = nnx.Variable(jnp.zeros(()))

    def __call__(self, carry, inputs):
        self.steps[...] = self.steps[...] + 1
        return super().__call__(carry, inputs * self.steps[...])


def test_nnx_cell_that_changes_in_itself():
    results = []
    for rnn in (jaxrnn.nnx.RNN, nnx.RNN):
        cell = Counting(IN_FEATURES, FEATURES, rngs=nnx.Rngs(1))
        inputs = inputs_of(cell, (3,), time_major=False)
        results.append(rnn(cell)(inputs))
        assert cell.steps[...] == TIME
    assert_close(*results)


class Dropping(nnx.GRUCell):
    """A cell with recurrent dropout, as in the tests of Flax."""

    def __init__(self, *arguments, rngs):
        super().__init__(*arguments, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rng_collection="recurrent", rngs=rngs)

    def __call__(self, carry, inputs):
        carry, output = super().__call__(carry, inputs)
        dropped = self.drop(jnp.ones_like(output))
        return carry, output * dropped


def test_nnx_broadcast_rngs():
    """One key for all steps of a call, and another one in the next call."""
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    results = []
    for rnn in (jaxrnn.nnx.RNN, nnx.RNN):
        cell = Dropping(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0, recurrent=1))
        layer = rnn(cell, broadcast_rngs="recurrent")
        results.append([layer(inputs), layer(inputs)])
        assert cell.drop.rngs.count[...] == 2
    assert_close(*results)
    first, second = (np.asarray(outputs) == 0 for outputs in results[0])
    assert (first == first[:, :1]).all()  # the same units at every step
    assert (first != second).any()


class Biased(nnx.GRUCell):
    """A cell that reads a value of its own at every step, and writes it."""

    def __init__(self, *arguments, rngs):
        super().__init__(*arguments, rngs=rngs)
        self.of_step = nnx.BatchStat(jnp.arange(4.0 * TIME).reshape(4, TIME))

    def __call__(self, carry, inputs):
        bias = self.of_step[...]
        carry, output = super().__call__(carry, inputs + bias[:2])
        self.of_step[...] = bias + 1
        return carry, output


def test_nnx_state_axes():
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    results = []
    for rnn in (jaxrnn.nnx.RNN, nnx.RNN):
        cell = Biased(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
        axes = nnx.StateAxes({nnx.BatchStat: 1, ...: nnx.Carry})
        with jax.numpy_rank_promotion("allow"):
            results.append(rnn(cell, state_axes=axes)(inputs))
        want = np.arange(4.0 * TIME).reshape(4, TIME) + 1
        np.testing.assert_array_equal(cell.of_step[...], want)
    assert_close(*results)


def test_nnx_keys_of_the_carry():
    """`rngs` of Flax: a stream, True for the seed 0, False for none."""
    inputs = inputs_of(nn.GRUCell(FEATURES), (3,), time_major=False)
    cell = nnx.GRUCell(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
    given = {"initial_carry": jnp.ones((3, FEATURES))}  # without keys Flax' cell asks
    for rngs, call in ((True, {}), (nnx.Rngs(1), {}), (False, given)):
        found, want = (
            rnn(cell, rngs=rngs)(inputs, **call) for rnn in (jaxrnn.nnx.RNN, nnx.RNN)
        )
        assert_close(found, want)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_is_that_of_the_layers(reverse):
    """Holes and rows without a step, in both families; of one feature axis."""
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], bool)
    inputs = inputs_of(nn.LSTMCell(FEATURES), (3,), time_major=False)
    options = {"return_carry": True, "reverse": reverse, "keep_order": True}
    layer = jaxrnn.LSTM(FEATURES, return_sequences=True, **options)
    rnn = jaxrnn.RNN(jaxrnn.lstm, features=FEATURES, **options)
    variables = variables_of(rnn, inputs)
    want = layer.apply(variables, inputs, mask=mask)
    assert_close(rnn.apply(variables, inputs, mask=mask), want)
    sizes = {"in_features": IN_FEATURES, "features": FEATURES, "rngs": nnx.Rngs(0)}
    of_nnx = jaxrnn.nnx.RNN(jaxrnn.lstm, **sizes, **options)
    for name, value in variables["params"].items():
        setattr(of_nnx, name, nnx.Param(value))
    assert_close(of_nnx(inputs, mask=mask), want)
    call = {"mask": mask, "seq_lengths": LENGTHS}
    with pytest.raises(ValueError, match="one of mask, lengths and seq_lengths"):
        rnn.apply(variables, inputs, **call)
    cell = SIMPLE_CELLS["ConvLSTMCell"]
    images = inputs_of(cell, (3,), time_major=False)
    with pytest.raises(ValueError, match=r"one feature axis, got .* give seq_lengths"):
        jaxrnn.RNN(cell).init(jax.random.key(0), images, mask=mask)
    jaxrnn.RNN(cell).init(jax.random.key(0), images, seq_lengths=LENGTHS)
