"""Does every option of a layer do what it does in Keras, PyTorch and Flax?

One table, `ROWS`: an option of ours, and its counterpart in each library that has it.
Values and gradients, with respect to all parameters, the inputs and the initial carry:
the libraries run in float64, and ours in float64 and in float32. What the table cannot
say follows it: what is random, ids, time as batch, initial values, low precision.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import keras.layers as kl
import numpy as np
import pytest
from keras_oracle import get_weights, keras_float64, keras_rules

import jaxrnn
from jaxrnn import Bidirectional, LSTMCarry, Stacked
from jaxrnn.interchange import (
    from_keras,
    from_linen,
    from_torch,
    to_keras,
    to_linen,
    to_torch,
)

BATCH, TIME, IN_FEATURES, FEATURES = 3, 5, 3, 3  # the last two as in the fixtures

# A rounding is 6e-8 or 1e-16; gradients here are sums of some tens of terms below ten.
TOLERANCES = {"float32": 1e-5, "float64": 1e-10}

LENGTHS = np.array([5, 2, 3])
LEFT_AND_HOLES = np.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """An option of ours and of the libraries that have it; None = it has not.

    Attributes:
      option: what the row is about.
      layer: ours.
      keras: makes a layer.
      torch: a case of tests/fixtures/torch.npz, or the class in `torch.nn` and its
        settings, which needs PyTorch itself.
      flax: a module.
      mask, lengths: given to the call.
      initial_carry: whether the call has one.
      shape: of the inputs.
    """

    option: str
    layer: Any
    keras: Callable[[], Any] | None = None
    torch: str | tuple[str, dict[str, Any]] | None = None
    flax: Any = None
    mask: np.ndarray | None = None
    lengths: np.ndarray | None = None
    initial_carry: bool = False
    shape: tuple[int, ...] = (BATCH, TIME, IN_FEATURES)


def ours(layer_class, **options):
    """A layer that returns all it can, if nothing else is said."""
    returns = {"return_sequences": True, "return_carry": True}
    return layer_class(**({"features": FEATURES} | returns | options))


def theirs(layer_class, **options):
    """The same of Keras, to be made where Keras is in float64."""
    returns = {"return_sequences": True, "return_state": True}
    return lambda: layer_class(**({"units": FEATURES} | returns | options))


def keras_bidirectional(forward, backward=None, **options):
    def make():
        backward_layer = None if backward is None else backward()
        return kl.Bidirectional(forward(), backward_layer=backward_layer, **options)

    return make


def keras_stack(return_sequences=True, return_state=True):
    """Layer upon layer inside one recurrence, which is the same."""
    return kl.RNN(
        [kl.LSTMCell(FEATURES), kl.GRUCell(FEATURES, reset_after=True)],
        return_sequences=return_sequences,
        return_state=return_state,
    )


def keras_sequential(*layers):
    return lambda: keras.Sequential([make() for make in layers])


def linen(cell_class, *, activation_fn=None, gate_fn=None, **options):
    """`flax.linen.RNN` of a cell."""
    chosen = {"activation_fn": activation_fn, "gate_fn": gate_fn}
    chosen = {name: function for name, function in chosen.items() if function}
    cell = cell_class(FEATURES, param_dtype=np.float64, **chosen)
    return nn.RNN(cell, return_carry=True, **options)


def linen_bidirectional(cell_class, **options):
    forward, backward = linen(cell_class), linen(cell_class)
    return nn.Bidirectional(forward, backward, return_carry=True, **options)


RNN, GRU, LSTM = jaxrnn.SimpleRNN, jaxrnn.GRU, jaxrnn.LSTM
BEFORE = {"reset_after": False}  # the reset gate acts before the matmul


def average(forward, reverse):
    return (forward + reverse) / 2


# fmt: off
ROWS = [
    # Activations.
    Row("tanh", ours(RNN),
        theirs(kl.SimpleRNN), "rnn_tanh-1", linen(nn.SimpleCell)),
    Row("relu", ours(RNN, activation=jax.nn.relu),
        theirs(kl.SimpleRNN, activation="relu"), "rnn_relu-1",
        linen(nn.SimpleCell, activation_fn=jax.nn.relu)),
    Row("sigmoid", ours(RNN, activation=jax.nn.sigmoid),
        theirs(kl.SimpleRNN, activation="sigmoid"), None,
        linen(nn.SimpleCell, activation_fn=jax.nn.sigmoid)),
    Row("linear", ours(RNN, activation=jaxrnn.linear),
        theirs(kl.SimpleRNN, activation="linear"), None,
        linen(nn.SimpleCell, activation_fn=jaxrnn.linear)),
    Row("gru", ours(GRU), theirs(kl.GRU), "gru-1", linen(nn.GRUCell)),
    Row("gru_activations",
        ours(GRU, activation=jax.nn.relu, recurrent_activation=jnp.tanh),
        theirs(kl.GRU, activation="relu", recurrent_activation="tanh"), None,
        linen(nn.GRUCell, activation_fn=jax.nn.relu, gate_fn=jnp.tanh)),
    Row("gru_reset_before", ours(GRU, **BEFORE), theirs(kl.GRU, **BEFORE)),
    Row("gru_reset_before_linear",
        ours(GRU, activation=jaxrnn.linear, **BEFORE),
        theirs(kl.GRU, activation="linear", **BEFORE)),
    Row("lstm", ours(LSTM), theirs(kl.LSTM), "lstm-1", linen(nn.LSTMCell)),
    Row("lstm_activations",
        ours(LSTM, activation=jaxrnn.linear, recurrent_activation=jnp.tanh),
        theirs(kl.LSTM, activation="linear", recurrent_activation="tanh"), None,
        linen(nn.LSTMCell, activation_fn=jaxrnn.linear, gate_fn=jnp.tanh)),

    # Parameters.
    Row("no_bias", ours(RNN, use_bias=False),
        theirs(kl.SimpleRNN, use_bias=False), ("RNN", {"bias": False}),
        linen(nn.SimpleCell)),
    Row("gru_no_bias", ours(GRU, use_bias=False),
        theirs(kl.GRU, use_bias=False), ("GRU", {"bias": False}), linen(nn.GRUCell)),
    Row("gru_reset_before_no_bias", ours(GRU, use_bias=False, **BEFORE),
        theirs(kl.GRU, use_bias=False, **BEFORE)),
    Row("lstm_no_bias", ours(LSTM, use_bias=False),
        theirs(kl.LSTM, use_bias=False), ("LSTM", {"bias": False}),
        linen(nn.LSTMCell)),
    Row("projection", ours(LSTM, projection_features=2), None, "lstm_proj-1"),

    # What a call returns.
    Row("last_and_carry", ours(LSTM, return_sequences=False),
        theirs(kl.LSTM, return_sequences=False)),
    Row("sequences_alone", ours(GRU, return_carry=False),
        theirs(kl.GRU, return_state=False)),
    Row("last_alone", ours(RNN, return_sequences=False, return_carry=False),
        theirs(kl.SimpleRNN, return_sequences=False, return_state=False)),

    # Where it starts.
    Row("initial_carry", ours(RNN), theirs(kl.SimpleRNN), ("RNN", {}),
        linen(nn.SimpleCell), initial_carry=True),
    Row("gru_initial_carry", ours(GRU), theirs(kl.GRU), ("GRU", {}),
        linen(nn.GRUCell), initial_carry=True),
    Row("gru_reset_before_initial_carry", ours(GRU, **BEFORE),
        theirs(kl.GRU, **BEFORE), initial_carry=True),
    Row("lstm_initial_carry", ours(LSTM), theirs(kl.LSTM), ("LSTM", {}),
        linen(nn.LSTMCell), initial_carry=True),
    Row("projection_initial_carry", ours(LSTM, projection_features=2), None,
        ("LSTM", {"proj_size": 2}), initial_carry=True),

    # Direction.
    Row("reverse", ours(RNN, reverse=True, keep_order=False),
        theirs(kl.SimpleRNN, go_backwards=True), None,
        linen(nn.SimpleCell, reverse=True)),
    Row("gru_reverse", ours(GRU, reverse=True, keep_order=False, **BEFORE),
        theirs(kl.GRU, go_backwards=True, **BEFORE)),
    Row("lstm_reverse", ours(LSTM, reverse=True, keep_order=False),
        theirs(kl.LSTM, go_backwards=True), None, linen(nn.LSTMCell, reverse=True)),
    Row("reverse_in_order", ours(GRU, reverse=True), None, None,
        linen(nn.GRUCell, reverse=True, keep_order=True)),

    # Which steps are valid.
    Row("mask", ours(RNN), theirs(kl.SimpleRNN, zero_output_for_mask=True),
        mask=LEFT_AND_HOLES),
    Row("mask_held", ours(RNN, hold_outputs=True), theirs(kl.SimpleRNN),
        mask=LEFT_AND_HOLES, initial_carry=True),
    Row("gru_mask", ours(GRU, **BEFORE),
        theirs(kl.GRU, zero_output_for_mask=True, **BEFORE), mask=LEFT_AND_HOLES),
    Row("gru_mask_held", ours(GRU, hold_outputs=True), theirs(kl.GRU),
        mask=LEFT_AND_HOLES, initial_carry=True),
    Row("lstm_mask", ours(LSTM), theirs(kl.LSTM, zero_output_for_mask=True),
        mask=LEFT_AND_HOLES, initial_carry=True),
    Row("lstm_mask_held_reverse",
        ours(LSTM, hold_outputs=True, reverse=True, keep_order=False),
        theirs(kl.LSTM, go_backwards=True), mask=LEFT_AND_HOLES),
    Row("lengths", ours(RNN), theirs(kl.SimpleRNN, zero_output_for_mask=True),
        ("RNN", {}), linen(nn.SimpleCell), lengths=LENGTHS),
    Row("gru_lengths", ours(GRU), theirs(kl.GRU, zero_output_for_mask=True),
        ("GRU", {}), linen(nn.GRUCell), lengths=LENGTHS, initial_carry=True),
    Row("lstm_lengths", ours(LSTM), theirs(kl.LSTM, zero_output_for_mask=True),
        ("LSTM", {}), linen(nn.LSTMCell), lengths=LENGTHS),
    Row("lengths_reverse", ours(LSTM, reverse=True), None, None,
        linen(nn.LSTMCell, reverse=True, keep_order=True), lengths=LENGTHS),

    # Axes.
    Row("time_major", ours(GRU, time_major=True), None, ("GRU", {}),
        linen(nn.GRUCell, time_major=True), shape=(TIME, BATCH, IN_FEATURES)),
    Row("time_major_lengths", ours(LSTM, time_major=True), None, ("LSTM", {}),
        linen(nn.LSTMCell, time_major=True), lengths=LENGTHS,
        shape=(TIME, BATCH, IN_FEATURES)),
    Row("unbatched", ours(LSTM), None, ("LSTM", {}), linen(nn.LSTMCell),
        shape=(TIME, IN_FEATURES), initial_carry=True),
    Row("two_batch_axes", ours(LSTM), None, None, linen(nn.LSTMCell),
        shape=(2, BATCH, TIME, IN_FEATURES), initial_carry=True),

    # Both directions.
    Row("concat", Bidirectional(ours(RNN, use_bias=False)),
        keras_bidirectional(theirs(kl.SimpleRNN, use_bias=False)),
        "rnn_tanh-1-bidirectional-no_bias", linen_bidirectional(nn.SimpleCell)),
    Row("gru_concat", Bidirectional(ours(GRU, use_bias=False)),
        keras_bidirectional(theirs(kl.GRU, use_bias=False)),
        "gru-1-bidirectional-no_bias", linen_bidirectional(nn.GRUCell)),
    Row("lstm_concat", Bidirectional(ours(LSTM, use_bias=False)),
        keras_bidirectional(theirs(kl.LSTM, use_bias=False)),
        "lstm-1-bidirectional-no_bias", linen_bidirectional(nn.LSTMCell)),
    Row("sum", Bidirectional(ours(RNN), merge=jnp.add),
        keras_bidirectional(theirs(kl.SimpleRNN), merge_mode="sum"), None,
        linen_bidirectional(nn.SimpleCell, merge_fn=jnp.add)),
    Row("mul", Bidirectional(ours(GRU), merge=jnp.multiply),
        keras_bidirectional(theirs(kl.GRU), merge_mode="mul"), None,
        linen_bidirectional(nn.GRUCell, merge_fn=jnp.multiply)),
    Row("ave", Bidirectional(ours(LSTM), merge=average),
        keras_bidirectional(theirs(kl.LSTM), merge_mode="ave")),
    Row("pair", Bidirectional(ours(LSTM), merge=None),
        keras_bidirectional(theirs(kl.LSTM), merge_mode=None)),
    Row("concat_last", Bidirectional(ours(LSTM, return_sequences=False)),
        keras_bidirectional(theirs(kl.LSTM, return_sequences=False)),
        mask=LEFT_AND_HOLES),
    Row("concat_mask", Bidirectional(ours(GRU, **BEFORE)),
        keras_bidirectional(theirs(kl.GRU, **BEFORE)), mask=LEFT_AND_HOLES,
        initial_carry=True),
    Row("concat_lengths", Bidirectional(ours(LSTM)),
        keras_bidirectional(theirs(kl.LSTM)), ("LSTM", {"bidirectional": True}),
        linen_bidirectional(nn.LSTMCell), lengths=LENGTHS, initial_carry=True),
    Row("own_reverse",
        Bidirectional(
            ours(LSTM),
            ours(GRU, activation=jax.nn.relu, reverse=True, features=2)),
        keras_bidirectional(
            theirs(kl.LSTM),
            theirs(kl.GRU, activation="relu", go_backwards=True, units=2))),
    Row("concat_of_stacks", Bidirectional(Stacked([ours(LSTM), ours(GRU)])),
        keras_bidirectional(keras_stack), mask=LEFT_AND_HOLES),
    Row("concat_of_stacks_last",
        Bidirectional(Stacked([
            ours(LSTM), ours(GRU, return_sequences=False, return_carry=False)])),
        keras_bidirectional(
            lambda: keras_stack(return_sequences=False, return_state=False))),
    Row("projection_concat",
        Bidirectional(ours(LSTM, projection_features=2, use_bias=False)),
        None, "lstm_proj-1-bidirectional-no_bias"),

    # Layer upon layer.
    Row("stacked", Stacked(ours(RNN, use_bias=False), num_layers=2),
        None, "rnn_tanh-2-no_bias"),
    Row("gru_stacked", Stacked(ours(GRU, use_bias=False), num_layers=2),
        None, "gru-2-no_bias"),
    Row("lstm_stacked", Stacked(ours(LSTM, use_bias=False), num_layers=2),
        None, "lstm-2-no_bias"),
    Row("stacked_bidirectional", Stacked(Bidirectional(ours(RNN)), num_layers=2),
        None, "rnn_tanh-2-bidirectional"),
    Row("gru_stacked_bidirectional", Stacked(Bidirectional(ours(GRU)), num_layers=2),
        None, "gru-2-bidirectional"),
    Row("lstm_stacked_bidirectional", Stacked(Bidirectional(ours(LSTM)), num_layers=2),
        None, "lstm-2-bidirectional"),
    Row("projection_stacked",
        Stacked(Bidirectional(ours(LSTM, projection_features=2)), num_layers=2),
        None, "lstm_proj-2-bidirectional"),
    Row("stacked_lengths", Stacked(Bidirectional(ours(GRU)), num_layers=2),
        None, ("GRU", {"num_layers": 2, "bidirectional": True}),
        lengths=LENGTHS, initial_carry=True),
    Row("stacked_kinds",
        Stacked([
            Bidirectional(ours(LSTM)), ours(GRU, **BEFORE),
            ours(RNN, return_sequences=False, return_carry=False)]),
        keras_sequential(
            keras_bidirectional(theirs(kl.LSTM, return_state=False)),
            theirs(kl.GRU, return_state=False, **BEFORE),
            theirs(kl.SimpleRNN, return_sequences=False, return_state=False)),
        mask=LEFT_AND_HOLES),
]
# fmt: on


def rows_with(library, kind=object):
    """The rows in which a library has a column, of one kind."""
    rows = [row for row in ROWS if isinstance(getattr(row, library), kind)]
    rows = [row for row in rows if getattr(row, library) is not None]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.option)


def draw(tree, seed=0):
    """Every leaf at random, biases too: none can hide behind its zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.8, 0.8, leaf.shape).astype(np.float32), tree
    )


def in_dtype(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@functools.cache
def problem(row):
    """Parameters, inputs, and the initial carry or None: numbers of float32."""
    inputs = jax.ShapeDtypeStruct(row.shape, np.float32)
    variables = jax.eval_shape(row.layer.init, jax.random.key(0), inputs)
    carry = None
    if row.initial_carry:
        carry, _ = jax.eval_shape(row.layer.apply, variables, inputs)
    trees = (variables["params"], inputs, carry)
    return tuple(draw(tree, seed) for seed, tree in enumerate(trees))


def evenly(values):
    """A scalar that every number enters, with a weight of its own."""
    leaves = jax.tree.leaves(values)
    weights = [np.cos(np.arange(leaf.size)).reshape(leaf.shape) for leaf in leaves]
    pairs = zip(leaves, weights, strict=True)
    return sum((x * jnp.asarray(w, x.dtype)).sum() for x, w in pairs)


class Solved(NamedTuple):
    """What a function gave, and the gradients of a scalar of it.

    Attributes:
      values: outputs first, then the carry: the order of Keras and PyTorch.
      params, inputs, carry: the gradients.
    """

    values: list[Any]
    params: Any
    inputs: Any
    carry: Any


def solve(function, params, inputs, carry, scalar=evenly):
    """Calls and differentiates a function of the three, in one compiled program."""

    def with_values(params, inputs, carry):
        values = function(params, inputs, carry)
        return scalar(values), jax.tree.leaves(values)

    gradient = jax.grad(with_values, (0, 1, 2), has_aux=True)
    gradients, values = jax.jit(gradient)(params, inputs, carry)
    return Solved(values, *gradients)


def apply(row, params, inputs, carry, **options):
    """Our layer: outputs, carry."""
    mask, lengths = jax.tree.map(jnp.asarray, (row.mask, row.lengths))
    returned = row.layer.apply(
        {"params": params},
        inputs,
        mask=mask,
        lengths=lengths,
        initial_carry=carry,
        **options,
    )
    return returned[::-1] if row.layer.call_options.return_carry else returned


@functools.cache
def our_side(row, dtype):
    """Once for all libraries."""
    return solve(functools.partial(apply, row), *in_dtype(problem(row), dtype))


def check(found, want, dtype):
    """Compares values and gradients leaf by leaf."""
    tolerance = {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype]}
    found = jax.tree.leaves_with_path(found)
    for (path, x), y in zip(found, jax.tree.leaves(want), strict=True):
        assert x.dtype == dtype
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, err_msg=where, **tolerance)


def check_row(row, want):
    for dtype in TOLERANCES:
        check(our_side(row, dtype), want, dtype)
    assert all(np.abs(x).max() > 1e-2 for x in jax.tree.leaves(want))  # nothing is 0


# Keras.


def keras_side(make, params, inputs, carry, mask, training=False):
    """Keras has its carry in a list; its weights and their gradients are lists too."""
    options = {} if mask is None else {"mask": jnp.asarray(mask)}
    if training:
        options["training"] = True

    def run(weights, inputs, carry):
        if carry is not None:
            options["initial_state"] = jax.tree.leaves(carry)
        return layer.stateless_call(weights, fixed, inputs, **options)[0]

    with keras_rules(), keras_float64():
        layer = make()
        layer.build(inputs.shape)
        layer.set_weights(keras_weights(params))
        weights = [variable.value for variable in layer.trainable_variables]
        fixed = [variable.value for variable in layer.non_trainable_variables]
        solved = solve(run, weights, *in_dtype((inputs, carry), np.float64))
    return solved._replace(params=from_keras_weights(solved.params, params))


def keras_weights(params):
    """As `to_keras`; of a Bidirectional of stacks one direction, then the other."""
    if "forward" in params and "layers_0" in params["forward"]:
        return [*to_keras(params["forward"]), *to_keras(params["reverse"])]
    return to_keras(params)


def from_keras_weights(weights, params):
    if "forward" in params and "layers_0" in params["forward"]:
        forward, half = params["forward"], len(weights) // 2
        return {
            "forward": from_keras(weights[:half], like=forward),
            "reverse": from_keras(weights[half:], like=params["reverse"]),
        }
    return from_keras(weights, like=params)


def row_mask(row):
    if row.lengths is None:
        return row.mask
    return np.arange(TIME) < row.lengths[..., None]


@pytest.mark.usefixtures("x64")
@rows_with("keras")
def test_keras(row):
    check_row(row, keras_side(row.keras, *problem(row), row_mask(row)))


# PyTorch.


def torch_side(name, options, row):
    """Eagerly; the weights of PyTorch are the leaves of its graph."""
    torch = pytest.importorskip("torch")
    params, inputs, carry = problem(row)
    state_dict = to_torch(params)
    module = getattr(torch.nn, name)(
        IN_FEATURES,
        FEATURES,
        batch_first=not row.layer.call_options.time_major,
        dtype=torch.float64,
        **options,
    )
    module.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})

    def tensor(array):
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    inputs = tensor(inputs)
    carry = jax.tree.map(tensor, carry)
    parts = 2 if name == "LSTM" else 1
    state = None
    if carry is not None:
        leaves = jax.tree.leaves(carry)
        states = [torch.stack(leaves[part::parts]) for part in range(parts)]
        state = states[0] if parts == 1 else tuple(states)
    if row.lengths is None:
        outputs, last = module(inputs, state)
    else:
        packing = {"batch_first": module.batch_first}
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            inputs, torch.tensor(row.lengths), enforce_sorted=False, **packing
        )
        outputs, last = module(packed, state)
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(
            outputs, total_length=TIME, **packing
        )
    values = [outputs, *in_our_order(last)]
    weights = [np.cos(np.arange(x.numel())).reshape(x.shape) for x in values]
    sum(
        (x * torch.tensor(w)).sum() for x, w in zip(values, weights, strict=True)
    ).backward()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    return Solved(
        [value.detach().numpy() for value in values],
        from_torch_gradients(gradients),
        inputs.grad.numpy(),
        jax.tree.map(lambda x: x.grad.numpy(), carry),
    )


def in_our_order(last):
    """(h_n, c_n) of all layers and directions as h, c of each."""
    last = last if isinstance(last, tuple) else (last,)
    return [part for parts in zip(*last, strict=True) for part in parts]


def from_torch_gradients(gradients):
    """The two biases that PyTorch adds have the same gradient, and ours has it once."""
    is_gru = gradients["weight_ih_l0"].shape[0] == 3 * FEATURES
    return from_torch(
        {
            name: gradient * (is_gru or "bias_hh" not in name)
            for name, gradient in gradients.items()
        }
    )


@pytest.mark.usefixtures("x64")
@rows_with("torch", tuple)
def test_torch(row):
    check_row(row, torch_side(*row.torch, row))


RECORDED = np.load(pathlib.Path(__file__).parent / "fixtures" / "torch.npz")


@pytest.mark.usefixtures("x64")
@rows_with("torch", str)
def test_torch_as_recorded(row):
    """What PyTorch computed once, so that the tests can do without it."""
    arrays = {
        name.removeprefix(f"{row.torch}/"): RECORDED[name]
        for name in RECORDED
        if name.startswith(f"{row.torch}/")
    }

    def part(prefix):
        return {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    def run(params, inputs, carry):
        outputs, carry = apply(row, params, jnp.moveaxis(inputs, 0, 1), carry)
        return jnp.moveaxis(outputs, 1, 0), jax.tree.leaves(carry)

    def scalar(values):
        outputs, carry = values
        hidden = carry[:: 2 if "c_n" in arrays else 1]
        cotangent = jnp.asarray(arrays["cotangent"], outputs.dtype)
        return (cotangent * outputs).sum() + sum(jnp.sin(h).sum() for h in hidden)

    gradients = part("grad/")
    want = Solved(
        [
            arrays["outputs"],
            *in_our_order(tuple(arrays[n] for n in ("h_n", "c_n") if n in arrays)),
        ],
        inputs=gradients.pop("inputs"),
        params=from_torch_gradients(gradients),
        carry=None,
    )
    for dtype in TOLERANCES:
        params = in_dtype(from_torch(part("state_dict/")), dtype)
        inputs = jnp.asarray(arrays["inputs"], dtype)
        check(solve(run, params, inputs, None, scalar), want, dtype)


# Flax.


def to_flax(params):
    """To the parameters of a `flax.linen.RNN`, or a `flax.linen.Bidirectional`."""
    if "forward" in params:
        forward, backward = to_flax(params["forward"]), to_flax(params["reverse"])
        return {"forward_rnn": forward, "backward_rnn": backward}
    return {"cell": to_linen(params)}


def from_flax_gradients(gradients, like):
    """Flax has one bias where two are added; the gradient is that of both."""
    if "forward" in like:
        return {
            "forward": from_flax_gradients(gradients["forward_rnn"], like["forward"]),
            "reverse": from_flax_gradients(gradients["backward_rnn"], like["reverse"]),
        }
    found = from_linen(gradients["cell"])
    if "recurrent_bias" in found:
        of_gates = np.arange(3 * FEATURES) < 2 * FEATURES
        both = np.where(of_gates, found["bias"], found["recurrent_bias"])
        found["recurrent_bias"] = both
    return {name: found[name] for name in like}


def swap_memory(carry, params):
    """Flax has (memory, hidden) in the carry of an LSTM."""
    if "forward" in params:
        directions = (params["forward"], params["reverse"])
        return tuple(map(swap_memory, carry, directions))
    return carry[::-1] if params["kernel"].shape[-1] == 4 * FEATURES else carry


def flax_side(row):
    params, inputs, carry = problem(row)

    def run(flax_params, inputs, carry):
        carry, outputs = row.flax.apply(
            {"params": flax_params},
            inputs,
            initial_carry=None if carry is None else swap_memory(carry, params),
            seq_lengths=None if row.lengths is None else jnp.asarray(row.lengths),
        )
        if row.lengths is not None:  # outputs of the padding are what the cell gives
            outputs = jnp.where(valid[..., None], outputs, 0)
        return outputs, swap_memory(carry, params)

    valid = row_mask(row)
    if valid is not None and row.layer.call_options.time_major:
        valid = valid.T
    wide = jax.tree.map(np.float64, params)  # before biases are added
    solved = solve(run, *in_dtype((to_flax(wide), inputs, carry), np.float64))
    return solved._replace(params=from_flax_gradients(solved.params, params))


@pytest.mark.usefixtures("x64")
@rows_with("flax")
def test_flax(row):
    check_row(row, flax_side(row))


# What is random: Keras is given the masks that were drawn here.

DROPOUT = {
    "inputs": {"dropout": 0.3},
    "recurrent": {"recurrent_dropout": 0.4},
    "both": {"dropout": 0.3, "recurrent_dropout": 0.4},
}
DROPPED = {
    "simple_rnn": (RNN, kl.SimpleRNN, {}, jaxrnn.simple_rnn),
    "gru": (GRU, kl.GRU, {}, jaxrnn.gru),
    "gru_reset_before": (GRU, kl.GRU, BEFORE, jaxrnn.gru_cell(**BEFORE)),
    "lstm": (LSTM, kl.LSTM, {}, jaxrnn.lstm),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rates", DROPOUT)
@pytest.mark.parametrize("name", DROPPED)
def test_dropout_of_keras(name, rates, monkeypatch):
    """One mask for all steps; with recurrent dropout one for every gate."""
    layer_class, keras_class, options, cell = DROPPED[name]
    rates = DROPOUT[rates]
    row = Row(name, ours(layer_class, **options, **rates), mask=LEFT_AND_HOLES)
    params, inputs, carry = problem(row)
    rngs = {"dropout": jax.random.key(4)}
    key = row.layer.apply({}, rngs=rngs, method=lambda m: m.make_rng("dropout"))
    cell = jaxrnn.dropout_cell(
        cell,
        rates.get("dropout", 0.0),
        recurrent_rate=rates.get("recurrent_dropout", 0.0),
    )
    drawn, _ = cell.noise(key, params, in_dtype(inputs, np.float64).swapaxes(0, 1))
    masks = [drawn[kind] for kind in ("dropout", "recurrent_dropout") if kind in drawn]
    assert all((mask == 0).any() and (mask != 0).any() for mask in masks)
    asked = iter([np.asarray(mask) for of_gates in masks for mask in of_gates])

    def given(ones, rate, seed):
        mask = next(asked)
        assert set(np.unique(mask)) <= {0, 1 / (1 - rate)}
        return ones * mask

    monkeypatch.setattr(keras.src.backend.random, "dropout", given)
    make = theirs(keras_class, zero_output_for_mask=True, **options, **rates)
    want = keras_side(make, params, inputs, carry, row.mask, training=True)
    assert next(asked, None) is None  # Keras asked for as many as there are
    noisy = functools.partial(apply, row, deterministic=False, rngs=rngs)
    for dtype in TOLERANCES:
        check(solve(noisy, *in_dtype((params, inputs, carry), dtype)), want, dtype)
    served = apply(row, params, inputs, carry)[0]
    want = apply(Row(name, ours(layer_class, **options), mask=row.mask), *problem(row))
    np.testing.assert_array_equal(served, want[0])  # nothing is dropped when serving


def copying(**options):
    """A layer whose outputs are its inputs."""
    return RNN(
        4,
        activation=jaxrnn.linear,
        use_bias=False,
        kernel_init=lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype),
        recurrent_kernel_init=nn.initializers.zeros,
        return_sequences=True,
        **options,
    )


def assert_share(found, rate):
    """Four standard deviations of a mean of independent coins; fails once in 16,000."""
    found = np.asarray(found)
    spread = np.sqrt(rate * (1 - rate) / found.size)
    np.testing.assert_allclose(found.mean(), rate, atol=4 * spread)


def test_dropout_between_layers():
    """As `dropout` of PyTorch: anew at every step, and not after the last layer."""
    layer, rate = Stacked(copying(), num_layers=2, dropout=0.3), 0.3
    ones = jnp.ones((64, 20, 4))
    variables = layer.init(jax.random.key(0), ones)

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(layer.apply(variables, ones, deterministic=False, rngs=rngs))

    found = train(1)
    assert set(np.unique(found)) == {0, np.float32(1) / np.float32(1 - rate)}
    assert_share(found == 0, rate)
    # A unit that is dropped at a step is dropped at the next one with the same rate.
    both = (found[:, 1:] == 0) & (found[:, :-1] == 0)
    assert_share(both, rate**2)
    assert (train(2) != found).any()
    np.testing.assert_array_equal(layer.apply(variables, ones), ones)


def test_zoneout_keeps_units_at_its_rates():
    rates = LSTMCarry(hidden=0.2, memory=0.6)
    layer = LSTM(8, zoneout=rates, return_all_carries=True)
    inputs = jax.random.normal(jax.random.key(0), (64, 20, 3))
    variables = layer.init(jax.random.key(1), inputs)
    carries, _ = layer.apply(
        variables,
        inputs,
        deterministic=False,
        rngs={"dropout": jax.random.key(2)},
    )
    for carry, rate in zip(carries, rates, strict=True):
        kept = np.asarray(carry[:, 1:] == carry[:, :-1])  # else no two are equal
        assert_share(kept, rate)
        assert_share(kept[:, 1:] & kept[:, :-1], rate**2)
    # Hidden and memory are kept independently of each other.
    kept = [np.asarray(carry[:, 1:] == carry[:, :-1]) for carry in carries]
    assert_share(kept[0] & kept[1], rates.hidden * rates.memory)


def test_zoneout_serves_its_expectation():
    """Exactly so for this cell, which is linear."""
    layer = copying(zoneout=0.4)
    inputs = jnp.broadcast_to(jnp.arange(1.0, 6.0)[:, None], (4000, 5, 4))
    variables = layer.init(jax.random.key(0), inputs)
    found = layer.apply(
        variables,
        inputs,
        deterministic=False,
        rngs={"dropout": jax.random.key(1)},
    )
    found = np.asarray(found).swapaxes(1, 2).reshape(-1, 5)
    want = layer.apply(variables, inputs[:1])[0, :, 0]
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - want) < 4 * error).all()
    np.testing.assert_allclose(want[:2], [0.6, 0.4 * 0.6 + 0.6 * 2], rtol=1e-6)


# Ids, and time as batch.


class Reader(nn.Module):
    """Keras' Embedding(mask_zero=True) and an LSTM."""

    @nn.compact
    def __call__(self, ids):
        features, mask = jaxrnn.Embed(9, FEATURES, mask_zero=True, name="embed")(ids)
        return LSTM(FEATURES, name="recurrent")(features, mask=mask)


@pytest.mark.usefixtures("x64")
def test_embedding_that_masks_zero():
    model = Reader()
    ids = jnp.array([[1, 2, 0, 3, 0], [0, 0, 8, 8, 1], [4, 5, 6, 7, 8]], jnp.int32)
    params = draw(jax.eval_shape(model.init, jax.random.key(0), ids)["params"])

    with keras_rules(), keras_float64():
        keras_model = keras.Sequential(
            [
                keras.Input((TIME,), dtype="int32"),
                kl.Embedding(9, FEATURES, mask_zero=True),
                kl.LSTM(FEATURES),
            ]
        )
        keras_model.set_weights(to_keras(params))
        weights = [variable.value for variable in keras_model.trainable_variables]
        fixed = [variable.value for variable in keras_model.non_trainable_variables]

        want = solve(
            lambda weights, *_: keras_model.stateless_call(weights, fixed, ids)[0],
            weights,
            None,
            None,
        )
    want = want._replace(params=from_keras(want.params, like=params))
    for dtype in TOLERANCES:
        found = solve(
            lambda params, *_: model.apply({"params": params}, ids),
            in_dtype(params, dtype),
            None,
            None,
        )
        check(found, want, dtype)
    assert not want.params["embed"]["embedding"][0].any()  # padding learns nothing


OVER_TIME = {  # ours, Keras', the axes of a step
    "dense": (nn.Dense(2), lambda: kl.Dense(2), (4,)),
    "conv": (
        nn.Conv(2, kernel_size=(3, 3)),
        lambda: kl.Conv2D(2, 3, padding="same"),
        (4, 5, 3),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OVER_TIME)
def test_time_distributed(name):
    layer, make, axes = OVER_TIME[name]
    layer = jaxrnn.TimeDistributed(layer)
    inputs = draw(np.zeros((BATCH, TIME, *axes)))
    params = draw(jax.eval_shape(layer.init, jax.random.key(0), inputs)["params"])
    weights = [params["layer"]["kernel"], params["layer"]["bias"]]
    with keras_rules(), keras_float64():
        keras_layer = kl.TimeDistributed(make())
        keras_layer.build(inputs.shape)
        want = solve(
            lambda w, x, _: keras_layer.stateless_call(w, [], x)[0],
            *in_dtype((weights, inputs), np.float64),
            None,
        )
    kernel, bias = want.params
    want = want._replace(params={"layer": {"kernel": kernel, "bias": bias}})

    def run(params, inputs, _):
        return layer.apply({"params": params}, inputs)

    for dtype in TOLERANCES:
        check(solve(run, *in_dtype((params, inputs, None), dtype)), want, dtype)

    def program(time):
        frames = jnp.ones((BATCH, time, *axes), np.float32)
        lowered = jax.jit(layer.apply).lower({"params": params}, frames)
        return lowered.as_text().splitlines()

    assert len(program(100)) == len(program(2))  # Keras repeats the layer per step


# Initial values.


def test_initial_values_inside_wrappers():
    """Every layer inside has those of Keras, by keys of its own."""
    inputs = jnp.zeros((1, 1, 100))
    layer = Stacked(Bidirectional(LSTM(16)), num_layers=2)
    params = jax.jit(layer.init)(jax.random.key(0), inputs)["params"]
    with keras_rules():
        keras.utils.set_random_seed(0)
        keras_layer = keras.Sequential(
            [
                keras.Input((1, 100)),
                kl.Bidirectional(kl.LSTM(16, return_sequences=True)),
                kl.Bidirectional(kl.LSTM(16)),
            ]
        )
    found, want = to_keras(params), get_weights(keras_layer)
    assert [x.shape for x in found] == [x.shape for x in want]
    kernels = range(0, 12, 3)
    for i in kernels:
        # The largest of n uniform values is 1/n below the limit, and their standard
        # deviations differ by 1/sqrt(n) or less; n is 2048 at least.
        limits = np.abs(found[i]).max(), np.abs(want[i]).max()
        np.testing.assert_allclose(*limits, rtol=5e-3)
        size = found[i].size
        np.testing.assert_allclose(
            found[i].std(), want[i].std(), rtol=3 / np.sqrt(size)
        )
        for matrix in (found[i + 1], want[i + 1]):  # orthonormal rows
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-5)
        np.testing.assert_array_equal(found[i + 2], want[i + 2])
    for i in (0, 1, 6, 7):  # forward and reverse
        assert (found[i] != found[i + 3]).mean() > 0.99
    assert (found[1] != found[7]).mean() > 0.99  # the same shape, one layer up


@pytest.mark.parametrize("unit_forget_bias", [True, False])
def test_initial_bias_beside_the_forget_gate(unit_forget_bias):
    """Keras sets the forget gate to 1, whatever draws the rest."""
    with keras_rules():
        keras_layer = kl.LSTM(
            4,
            bias_initializer=keras.initializers.Constant(0.5),
            unit_forget_bias=unit_forget_bias,
        )
        keras_layer.build((1, 1, 3))
    layer = LSTM(
        4, bias_init=nn.initializers.constant(0.5), unit_forget_bias=unit_forget_bias
    )
    params = layer.init(jax.random.key(0), jnp.zeros((1, 1, 3)))["params"]
    np.testing.assert_array_equal(params["bias"], get_weights(keras_layer)[2])
    assert (params["bias"] == 1).any() == unit_forget_bias


# Low precision: parameters in float32, the computation in less.

UNITS = {"bfloat16": 2**-9, "float16": 2**-11}  # of rounding, relatively


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", ["tanh", "gru", "lstm"])
def test_low_precision(name, dtype):
    row = next(row for row in ROWS if row.option == name)
    low = Row(name, row.layer.clone(dtype=jnp.dtype(dtype)))
    params, inputs, carry = in_dtype(problem(row), np.float32)

    def scalar(values):
        return evenly(in_dtype(values, np.float32))

    want = our_side(row, "float32")
    found = solve(functools.partial(apply, low), params, inputs, carry, scalar)
    assert {x.dtype.name for x in found.values} == {dtype}
    assert {x.dtype.name for x in jax.tree.leaves(found[1:])} == {"float32"}
    # Every step rounds some ten numbers of size one, and hands its error on.
    bound = 10 * TIME * UNITS[dtype]
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True)
    errors = [
        np.abs(x.astype(np.float32) - y).max() / max(1, np.abs(y).max())
        for x, y in pairs
    ]
    assert UNITS[dtype] / 10 < max(errors) < bound  # the computation was in it


@pytest.mark.parametrize("solver", [jaxrnn.Scan(), jaxrnn.HoistedScan()], ids=repr)
def test_gradients_add_up_in_float32(solver):
    """A sum of ones in bfloat16 ends at 256, where another 1 rounds away."""
    time = 1000
    params = {
        "kernel": jnp.ones((1, 1)),
        "recurrent_kernel": jnp.zeros((1, 1)),
        "bias": jnp.zeros(1),
    }
    cell = jaxrnn.simple_rnn_cell(activation=jaxrnn.linear)

    def total(params):
        _, outputs = jaxrnn.rnn(
            cell,
            params,
            jnp.ones((time, 1, 1), jnp.bfloat16),
            dtype=jnp.bfloat16,
            solver=solver,
        )
        return outputs.astype(np.float32).sum()

    found = jax.grad(total)(params)
    assert {name: x.item() for name, x in found.items()} == {
        "kernel": time,
        "recurrent_kernel": time - 1,
        "bias": time,
    }


@pytest.mark.parametrize("name", ["tanh", "gru", "lstm"])
def test_matmuls_add_up_in_float32(name):
    """Asked of the program: on a CPU the sums are in float32 either way."""
    row = next(row for row in ROWS if row.option == name)
    layer = row.layer.clone(dtype=jnp.bfloat16)
    params, inputs, _ = in_dtype(problem(row), np.float32)
    program = str(jax.make_jaxpr(layer.apply)({"params": params}, inputs))
    assert program.count("dot_general[") == 2  # x W and h U
    assert program.count("preferred_element_type=float32") == 2
