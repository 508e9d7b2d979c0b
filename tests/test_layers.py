"""Do the layers of Linen and NNX keep the same rules, with no number silently wrong?

A rule is tested in both families, through `FAMILIES`; numbers that are equal in both
(tests/test_nnx.py) are compared with their oracle in Linen alone.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.linen
import jaxrnn.nnx
from jaxrnn import LSTMCarry
from jaxrnn.layers import elsewhere

BATCH, TIME, FEATURES = 3, 5, 4  # as many features as inputs have: any layer fits
INPUTS = jax.random.normal(jax.random.key(0), (BATCH, TIME, FEATURES))
HOLES = jnp.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
RESETS = jnp.array([[0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
ALL = {"return_sequences": True, "return_carry": True}


class Family(NamedTuple):
    """How a layer is made and called, in Linen or NNX.

    Attributes:
      names: the module with the layers.
      make: `(name, **options) -> a recurrent layer`.
      call: `(layer, inputs, **call) -> what it returns, without noise`.
      step: `(layer, inputs, resets) -> the output after each step`.
    """

    names: Any
    make: Callable[..., Any]
    call: Callable[..., Any]
    step: Callable[..., Any]


def linen_call(layer, inputs=INPUTS, **call):
    variables = jax.eval_shape(layer.init, jax.random.key(1), inputs)
    return layer.apply(draw(variables), inputs, deterministic=True, **call)


def nnx_call(layer, inputs=INPUTS, **call):
    return layer(inputs, deterministic=True, **call)


def linen_step(layer, inputs, resets):
    """The outputs, the carries' dtypes, and the first carry."""
    variables = draw(jax.eval_shape(layer.init, jax.random.key(1), inputs))
    carry = layer.apply(variables, inputs.shape[:1], method="initial_carry")
    outputs = []
    for step in zip(inputs.swapaxes(0, 1), resets.T, strict=True):
        carry, output = layer.apply(
            variables, carry, step[0], resets=step[1], method="step"
        )
        outputs.append(output)
    return carry, jnp.stack(outputs, axis=1)


def nnx_step(layer, inputs, resets):
    carry = layer.initial_carry(inputs.shape[:1])
    outputs = []
    for step in zip(inputs.swapaxes(0, 1), resets.T, strict=True):
        carry, output = layer.step(carry, step[0], resets=step[1])
        outputs.append(output)
    return carry, jnp.stack(outputs, axis=1)


RNGS = nnx.Rngs(0)
FAMILIES = {
    "linen": Family(
        jaxrnn.linen,
        lambda name, **options: getattr(jaxrnn, name)(FEATURES, **options),
        linen_call,
        linen_step,
    ),
    "nnx": Family(
        jaxrnn.nnx,
        lambda name, **options: getattr(jaxrnn.nnx, name)(
            FEATURES, FEATURES, rngs=RNGS, **options
        ),
        nnx_call,
        nnx_step,
    ),
}
BOTH_FAMILIES = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def draw(tree, seed=0):
    """Every leaf at random, biases too: none can hide behind its zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-0.8, 0.8, leaf.shape), leaf.dtype), tree
    )


def assert_close(found, want):
    """A few roundings of numbers of size one, in float32."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6), found, want
    )


# Both families offer the same.

ONLY_NNX = {"in_features", "rngs", "state_axes", "broadcast_rngs"}
ONLY_LINEN = {"parent", "name", "variable_axes", "variable_broadcast"}
ONLY_LINEN |= {"variable_carry", "split_rngs"}
CALL_ONLY = {"init_key", "rngs"}  # of Flax' own call in either family


def parameters(function, without):
    """Names, kinds and defaults, but for the types."""
    found = inspect.signature(function).parameters.values()
    return {
        (p.name, p.kind.name, repr(p.default))
        for p in found
        if p.name not in without | {"self"}
    }


def public(module):
    """The names of a table of contents."""
    items = vars(module).items()
    return {k for k, v in items if getattr(v, "__module__", "").startswith("jaxrnn")}


def test_both_families_have_the_same_names():
    assert public(jaxrnn.linen) == public(jaxrnn.nnx)
    assert public(jaxrnn.linen) <= public(jaxrnn)


@pytest.mark.parametrize("name", sorted(public(jaxrnn.linen) - {"concatenate"}))
def test_both_families_have_the_same_options_and_defaults(name):
    linen, of_nnx = getattr(jaxrnn.linen, name), getattr(jaxrnn.nnx, name)
    made = [
        parameters(linen, ONLY_LINEN),
        parameters(of_nnx.__init__, ONLY_NNX),
    ]
    assert {x[0::2] for x in made[0]} == {x[0::2] for x in made[1]}
    if name != "RNN":  # there Linen has fields in the order of Flax
        assert made[0] == made[1]
    calls = [parameters(x.__call__, CALL_ONLY) for x in (linen, of_nnx)]
    assert calls[0] == calls[1]
    assert not any("VAR" in kind for _, kind, _ in made[0] | made[1] | calls[0])


# Direction.


def gru(**options):
    return jaxrnn.GRU(FEATURES, **ALL, **options)


def lstm(**options):
    return jaxrnn.LSTM(FEATURES, **ALL, **options)


TURNED = {
    "layer": gru(),
    "stack": jaxrnn.Stacked([lstm(), gru()]),
    "stack_of_both_directions": jaxrnn.Stacked([gru(reverse=True), lstm()]),
    "bidirectional": jaxrnn.Bidirectional(gru(), lstm()),
    "stack_of_bidirectional": jaxrnn.Stacked(jaxrnn.Bidirectional(gru()), num_layers=2),
    "bidirectional_of_stack": jaxrnn.Bidirectional(jaxrnn.Stacked([gru(), lstm()])),
    "flax_cell": jaxrnn.RNN(nn.GRUCell(FEATURES), return_carry=True),
}


def flipped(inputs, mask, resets):
    """The same episodes from the other end: one ends where the next begins."""
    if resets is not None:
        resets = jnp.roll(resets, -1, axis=1).at[:, -1].set(False)[:, ::-1]
    return inputs[:, ::-1], None if mask is None else mask[:, ::-1], resets


@pytest.mark.parametrize("mask", [None, HOLES], ids=["no_mask", "holes"])
@pytest.mark.parametrize("name", TURNED)
def test_a_layer_in_reverse_is_the_layer_on_flipped_inputs(name, mask):
    """In a Bidirectional, whatever the layer; flipped by hand it runs forward."""
    layer = TURNED[name]
    resets = RESETS
    both = jaxrnn.Bidirectional(layer, merge=None)
    params = draw(jax.eval_shape(both.init, jax.random.key(0), INPUTS))["params"]
    call = {"mask": mask, "resets": resets}
    carry, outputs = both.apply({"params": params}, INPUTS, **call)
    of_forward = {"params": params["forward"]}
    if name == "flax_cell":  # a layer of its own around it has masks and resets
        layer = jaxrnn.Stacked([layer])
        of_forward, of_reverse = (
            {"params": {"layers_0": params[side]}} for side in ("forward", "reverse")
        )
        carry = [(one,) for one in carry]
    else:
        of_reverse = {"params": params["reverse"]}
    assert_close((carry[0], outputs[0]), layer.apply(of_forward, INPUTS, **call))
    inputs, mask, resets = flipped(INPUTS, mask, resets)
    want = layer.apply(of_reverse, inputs, mask=mask, resets=resets)
    assert_close((carry[1], outputs[1]), (want[0], want[1][:, ::-1]))
    assert (np.abs(outputs[0] - outputs[1]) > 1e-3).any()  # else nothing was tested


def test_last_output_of_a_layer_in_reverse_is_that_of_the_first_step():
    stack = jaxrnn.Stacked([jaxrnn.GRU(FEATURES), jaxrnn.GRU(FEATURES)])
    both = jaxrnn.Bidirectional(stack, merge=None)
    variables = draw(jax.eval_shape(both.init, jax.random.key(0), INPUTS))
    _, last = both.apply(variables, INPUTS)
    params = {"params": variables["params"]["reverse"]}
    assert_close(last, stack.apply(params, INPUTS[:, ::-1]))


@BOTH_FAMILIES
def test_what_a_reversed_layer_returns_has_one_order(family):
    """Outputs and all carries: in input order, or both as they were made."""
    options = {"return_sequences": True, "return_all_carries": True, "reverse": True}
    for keep_order in (True, False):
        layer = family.make("GRU", keep_order=keep_order, **options)
        carries, outputs = family.call(layer)
        np.testing.assert_array_equal(carries, outputs)  # of a GRU they are the same


@BOTH_FAMILIES
def test_a_call_can_change_direction_order_axes_and_carry(family):
    layer = family.make("GRU", return_sequences=True)
    variables = family.make("GRU", **ALL, reverse=True, keep_order=False)
    if family.names is jaxrnn.nnx:
        nnx.update(variables, nnx.state(layer, nnx.Param))
    want_carry, want = family.call(variables)
    call = {"reverse": True, "keep_order": False, "return_carry": True}
    carry, outputs = family.call(layer, **call)
    assert_close((carry, outputs), (want_carry, want))
    by_time = INPUTS.swapaxes(0, 1)
    carry, outputs = family.call(layer, by_time, time_major=True, **call)
    assert_close((carry, outputs.swapaxes(0, 1)), (want_carry, want))


# Layers that do not fit together.


@BOTH_FAMILIES
@pytest.mark.parametrize("option", ["return_sequences", "return_carry"])
def test_directions_that_return_different_things(family, option):
    layers = family.make("GRU", **{option: True}), family.make("GRU")
    with pytest.raises(ValueError, match=f"return the same, got {option}=True forward"):
        family.names.Bidirectional(*layers)


@BOTH_FAMILIES
def test_what_is_no_layer(family):
    """A module of Flax, a name as in Keras, a class, a layer of the other family."""
    (other,) = (one for one in FAMILIES.values() if one.names is not family.names)
    for wrong in (
        nn.RNN(nn.GRUCell(4)),
        "gru",
        family.names.GRU,
        other.make("GRU"),
    ):
        for wrapper in (
            family.names.Bidirectional,
            lambda x: family.names.Stacked([x]),
        ):
            with pytest.raises(
                TypeError, match=r"takes those of jaxrnn(\.nnx)?, such as"
            ):
                wrapper(wrong)


@BOTH_FAMILIES
def test_layers_with_different_axes(family):
    layers = [family.make("GRU", time_major=True), family.make("GRU")]
    for wrapper in (lambda x: family.names.Bidirectional(*x), family.names.Stacked):
        with pytest.raises(ValueError, match=r"time_major .* got \[True, False\]"):
            wrapper(layers)


@BOTH_FAMILIES
def test_a_layer_below_another_that_returns_what_is_lost(family):
    as_made = family.make("GRU", reverse=True, keep_order=False)
    with pytest.raises(ValueError, match="in input order, got one with keep_order=Fal"):
        family.names.Stacked([as_made, family.make("GRU")])
    with pytest.raises(ValueError, match="those below need return_all_carries=True"):
        family.names.Stacked(
            [family.make("GRU"), family.make("GRU", return_all_carries=True)]
        )
    both = [family.make("GRU", **ALL) for _ in range(2)]
    pairs = family.names.Bidirectional(*both, merge=None)
    with pytest.raises(ValueError, match="got a pair of a Bidirectional with merge=No"):
        family.call(family.names.Stacked([pairs, family.make("GRU")]))


@BOTH_FAMILIES
def test_one_layer_given_twice(family):
    """It would have to share its parameters; no wrapper here does that."""
    layer, other = family.make("GRU"), family.make("GRU")
    names = family.names
    for make in (
        lambda: names.Stacked([layer] * 2),
        lambda: names.Bidirectional(layer, layer),
        lambda: names.Bidirectional(names.Stacked([layer]), layer),
        lambda: names.Bidirectional(
            names.Stacked([layer, other]), names.Stacked([other])
        ),
    ):
        with pytest.raises(ValueError, match="object of its own, got the same object"):
            make()


def test_one_parameter_or_cell_in_two_layers():
    one, other = FAMILIES["nnx"].make("GRU"), FAMILIES["nnx"].make("GRU")
    other.kernel = one.kernel
    cell = nn.GRUCell(FEATURES)
    for make in (
        lambda: jaxrnn.nnx.Bidirectional(one, other),
        lambda: jaxrnn.Bidirectional(jaxrnn.RNN(cell), jaxrnn.RNN(cell)),
    ):
        with pytest.raises(ValueError, match="object of its own, got the same object"):
            make()


def test_a_repeated_layer_has_parameters_of_its_own():
    rngs = nnx.Rngs(0)
    stack = jaxrnn.nnx.Stacked(
        jaxrnn.nnx.Bidirectional(jaxrnn.nnx.LSTM(2, 4, rngs=rngs), rngs=rngs),
        num_layers=3,
        rngs=rngs,
    )
    linen = jaxrnn.Stacked(jaxrnn.Bidirectional(jaxrnn.LSTM(4)), num_layers=3)
    shapes = jax.eval_shape(linen.init, jax.random.key(0), jnp.ones((5, 7, 2)))
    found = nnx.to_pure_dict(nnx.state(stack, nnx.Param))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes["params"])
    kernels = [
        np.asarray(getattr(layer, side).recurrent_kernel[...])
        for layer in stack.layers
        for side in ("forward", "reverse")
    ]
    assert len(np.unique(kernels)) == 6 * kernels[0].size
    assert stack(jnp.ones((5, 7, 2))).shape == (5, stack.out_features) == (5, 8)


def test_nnx_layers_need_a_key_for_a_second_layer():
    layer = FAMILIES["nnx"].make("GRU")
    cell = nnx.GRUCell(FEATURES, FEATURES, rngs=RNGS)
    for make in (jaxrnn.nnx.Bidirectional, lambda x: jaxrnn.nnx.Stacked(x, 2)):
        with pytest.raises(ValueError, match=r"needs rngs, got None; .* or both"):
            make(layer)
    with pytest.raises(ValueError, match="second RNN cannot be made of the first"):
        jaxrnn.nnx.Bidirectional(jaxrnn.nnx.RNN(cell), rngs=RNGS)


# What a call is given.


@BOTH_FAMILIES
def test_a_plain_tuple_is_an_lstm_carry(family):
    """(hidden, memory), in the order of Keras and PyTorch."""
    carry = LSTMCarry(*jax.random.normal(jax.random.key(1), (2, BATCH, FEATURES)))
    layer = family.make("LSTM", **ALL)
    want = family.call(layer, initial_carry=carry)
    for plain in (tuple(carry), list(carry)):
        assert_close(family.call(layer, initial_carry=plain), want)
    assert type(want[0]) is LSTMCarry


@BOTH_FAMILIES
def test_a_carry_that_is_not_one_for_each_layer(family):
    carry = LSTMCarry(jnp.zeros((BATCH, FEATURES)), jnp.zeros((BATCH, FEATURES)))
    both = family.names.Bidirectional(family.make("LSTM"), family.make("LSTM"))
    stack = family.names.Stacked([family.make("GRU"), family.make("GRU")])
    stacked_array = jnp.zeros((2, BATCH, FEATURES))  # as PyTorch has it
    wrong = {"a LSTMCarry": carry, "a ArrayImpl": stacked_array, "1": (carry,)}
    for layer, whose in ((both, "directions"), (stack, "layers")):
        for found, given in wrong.items():
            words = rf"each of the 2 {whose}.* got {found}"
            with pytest.raises(ValueError, match=words):
                family.call(layer, initial_carry=given)


@BOTH_FAMILIES
def test_lengths_may_be_a_list(family, untyped):
    layer = family.make("GRU", **ALL)
    want = family.call(layer, lengths=jnp.array([5, 2, 0]))
    for call in ({"lengths": [5, 2, 0]}, {"seq_lengths": jnp.array([5, 2, 0])}):
        assert_close(family.call(layer, **call), want)
    with pytest.raises(TypeError, match="lengths must be integers, got float32"):
        untyped(family.call)(layer, lengths=[5.0, 2.0, 0.0])
    with pytest.raises(ValueError, match=r"batch shape of inputs \(3,\), got \(2,\)"):
        family.call(layer, lengths=[5, 2])
    for call in ({"mask": HOLES}, {"seq_lengths": jnp.array([5, 2, 0])}):
        with pytest.raises(ValueError, match="one of mask, lengths and seq_lengths"):
            family.call(layer, lengths=[5, 2, 0], **call)


@BOTH_FAMILIES
def test_functions_are_not_given_by_name(family, untyped):
    """As Keras takes them."""
    make, both = untyped(family.make), untyped(family.names.Bidirectional)
    for name in ("SimpleRNN", "GRU", "LSTM"):
        with pytest.raises(TypeError, match=r"^activation must .* got 'tanh'"):
            untyped(family.call)(make(name, activation="tanh"))
    with pytest.raises(TypeError, match="recurrent_activation must be a function"):
        untyped(family.call)(make("GRU", recurrent_activation="sigmoid"))
    with pytest.raises(TypeError, match=r"initial values of kernel .* got 'zeros'"):
        untyped(family.call)(make("GRU", kernel_init="zeros"))
    with pytest.raises(TypeError, match=r"merge must be .* jnp.add .* got 'sum'"):
        both(family.make("GRU"), family.make("GRU"), merge="sum")
    rngs = {} if family.names is jaxrnn.linen else {"rngs": RNGS}
    for wrong, words in (("uniform", "'uniform'"), (jnp.ones((9, 4)), "an array of")):
        with pytest.raises(TypeError, match=f"values of embedding .* got {words}"):
            untyped(family.names.Embed)(9, 4, embedding_init=wrong, **rngs)


@BOTH_FAMILIES
def test_text_is_neither_true_nor_false(family, untyped):
    """As a configuration file has it: `bool("False")` is True."""
    for name in ("return_sequences", "reverse", "use_bias", "unit_forget_bias"):
        with pytest.raises(TypeError, match=f"^{name} must be True or False, got 'F"):
            untyped(family.make)("LSTM", **{name: "False"})


@BOTH_FAMILIES
def test_a_batch_shape_is_a_tuple(family, untyped):
    layer = family.names.Stacked([family.make("GRU")])
    if family.names is jaxrnn.linen:
        variables = layer.init(jax.random.key(0), INPUTS)
        layer = layer.bind(variables)
    assert layer.initial_carry((3,))[0].shape == (3, FEATURES)
    with pytest.raises(TypeError, match=r"a tuple of sizes, got 3; .* is \(batch,\)"):
        untyped(layer.initial_carry)(3)


@BOTH_FAMILIES
def test_names_of_elsewhere_say_what_is_written_here(family, untyped):
    """The names of Keras, PyTorch and Flax; what is to be written is there."""
    known = {*inspect.signature(jaxrnn.nnx.LSTM.__init__).parameters, *dir(jaxrnn)}
    known |= {*inspect.signature(jaxrnn.LSTM.__call__).parameters}
    for name, write in elsewhere.OF_RECURRENT.items():
        words = re.escape(f"LSTM has no argument {name}, got {name}=7; write ")
        with pytest.raises(TypeError, match=words):
            untyped(family.make)("LSTM", **{name: 7})
        assert name not in known
        assert re.match(r"\w+", write).group() in known
    known = inspect.signature(jaxrnn.Embed).parameters
    for name, write in elsewhere.OF_EMBED.items():
        with pytest.raises(
            TypeError, match=f"Embed has no argument {name}, got {name}"
        ):
            untyped(family.names.Embed)(**{name: 7})
        assert name not in known
        assert re.match(r"\w+", write).group() in known
    words = r"LSTM takes features without a name, got \(8, 32\); .* finds it in its inp"
    with pytest.raises(TypeError, match=words):
        untyped(jaxrnn.LSTM)(8, 32)
    words = r"LSTM takes in_features and features without a name, got \(8, 32, 2\);"
    with pytest.raises(TypeError, match=words):
        untyped(jaxrnn.nnx.LSTM)(8, 32, 2, rngs=RNGS)
    with pytest.raises(TypeError, match=r"got units=32; write features=32\.$"):
        untyped(jaxrnn.SimpleRNN)(units=32)


def test_cells_and_models_take_no_names_of_functions(untyped):
    cells = ("simple_rnn", "gru", "lstm", "ind_rnn", "mgu", "layer_norm_gru")
    for name in (*cells, "layer_norm_lstm"):
        with pytest.raises(TypeError, match="got 'relu'"):
            untyped(getattr(jaxrnn, f"{name}_cell"))(activation="relu")
    with pytest.raises(TypeError, match="hidden_activation must be a function"):
        untyped(jaxrnn.Forecaster)(gru(), 3, hidden_activation="relu")


# One step.

STEPPED = {
    "zoneout": lambda family: family.make("LSTM", zoneout=0.3),
    "dropout": lambda family: family.make("GRU", dropout=0.3, recurrent_dropout=0.3),
    "bfloat16": lambda family: family.make("LSTM", dtype=jnp.bfloat16),
    "stacked": lambda family: family.names.Stacked(
        [family.make("LSTM", zoneout=0.2), family.make("GRU")], dropout=0.2
    ),
}


@BOTH_FAMILIES
@pytest.mark.parametrize("name", STEPPED)
def test_steps_are_the_call_without_noise(family, name):
    """Carry, outputs and their dtypes, with episodes that begin on the way."""
    layer = STEPPED[name](family)
    carry, outputs = family.step(layer, INPUTS, RESETS)
    want = family.call(layer, resets=RESETS, return_carry=True)
    assert jax.tree.structure(carry) == jax.tree.structure(want[0])
    pairs = zip(
        jax.tree.leaves((carry, outputs[:, -1])), jax.tree.leaves(want), strict=True
    )
    for found, right in pairs:
        assert found.dtype == right.dtype
        # Two programs may round in another order, in bfloat16 by a unit of size one.
        atol = 2**-7 if name == "bfloat16" else 2e-6
        np.testing.assert_allclose(
            found.astype(jnp.float32), right.astype(jnp.float32), rtol=0, atol=atol
        )


@BOTH_FAMILIES
def test_first_carry_of_layers_around_layers(family):
    """As `train_stream` asks for one: in the structure and dtype of what comes back."""
    low = {"dtype": jnp.bfloat16, "return_carry": True}
    layer = family.names.Stacked(
        [
            family.names.Bidirectional(
                family.make("LSTM", **low), family.make("GRU", **low), merge=jnp.add
            ),
            family.make("GRU", **low),
        ]
    )
    if family.names is jaxrnn.nnx:
        first = layer.initial_carry((BATCH,))
    else:
        variables = layer.init(jax.random.key(0), INPUTS)
        first = layer.apply(variables, (BATCH,), method="initial_carry")
    carry, _ = family.call(layer, return_carry=True)
    kind = lambda leaf: (leaf.shape, leaf.dtype)  # noqa: E731
    assert jax.tree.map(kind, first) == jax.tree.map(kind, carry)
    assert_close(family.call(layer, initial_carry=first)[1], family.call(layer)[1])


@BOTH_FAMILIES
def test_what_runs_in_reverse_has_no_step(family):
    both = family.names.Bidirectional(family.make("GRU"), family.make("GRU"))
    for layer, words in (
        (both, "a Bidirectional has no single step"),
        (family.make("GRU", reverse=True), "got one with reverse=True"),
        (family.names.Stacked([family.make("GRU", reverse=True)]), "reverse=True"),
    ):
        with pytest.raises(ValueError, match=words):
            family.step(layer, INPUTS, RESETS)


# Noise in Linen.

NOISY = {
    "dropout": jaxrnn.GRU(FEATURES, dropout=0.5),
    "zoneout": jaxrnn.LSTM(FEATURES, zoneout=LSTMCarry(0.0, 0.5)),
    "stacked": jaxrnn.Stacked(jaxrnn.GRU(FEATURES), num_layers=2, dropout=0.5),
    "bidirectional": jaxrnn.Bidirectional(
        jaxrnn.GRU(FEATURES), jaxrnn.GRU(FEATURES, dropout=0.5)
    ),
    "model": jaxrnn.Forecaster(jaxrnn.GRU(FEATURES, dropout=0.5), hidden_features=2),
}


@pytest.mark.parametrize("name", NOISY)
def test_a_key_for_dropout_needs_a_word_on_what_it_is_for(name):
    layer, rngs = NOISY[name], {"dropout": jax.random.key(1)}
    variables = layer.init({"params": jax.random.key(0)} | rngs, INPUTS)
    with pytest.raises(ValueError, match="say deterministic=False to train"):
        layer.apply(variables, INPUTS, rngs=rngs)
    quiet = layer.apply(variables, INPUTS)
    served = layer.apply(variables, INPUTS, rngs=rngs, deterministic=True)
    np.testing.assert_array_equal(served, quiet)
    trained = layer.apply(variables, INPUTS, rngs=rngs, deterministic=False)
    assert (trained != quiet).any()


def test_a_key_for_dropout_is_welcome_where_there_is_none():
    layer = jaxrnn.Bidirectional(jaxrnn.GRU(FEATURES))
    variables = layer.init(jax.random.key(0), INPUTS)
    found = layer.apply(variables, INPUTS, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(found, layer.apply(variables, INPUTS))


def test_noise_of_the_cell_itself_is_drawn_too():
    noisy = jaxrnn.dropout_cell(jaxrnn.gru, 0.5)
    layer, same = jaxrnn.Recurrent(4, cell=noisy), jaxrnn.GRU(4, dropout=0.5)
    variables = layer.init(jax.random.key(0), INPUTS)
    train = {"deterministic": False, "rngs": {"dropout": jax.random.key(1)}}
    found = layer.apply(variables, INPUTS, **train)
    np.testing.assert_array_equal(found, same.apply(variables, INPUTS, **train))
    model = jaxrnn.nnx.Recurrent(FEATURES, 4, cell=noisy, rngs=nnx.Rngs(0))
    assert (model(INPUTS) != model(INPUTS)).any()
    with pytest.raises(ValueError, match="no key for the noise of a cell, got gru wit"):
        jaxrnn.RNN(noisy, features=4)


# Where the parameters of a Linen layer stand.

WRAPPED = {
    "bidirectional": lambda: jaxrnn.Bidirectional(jaxrnn.LSTM(4), name="wrapped"),
    "own_reverse": lambda: jaxrnn.Bidirectional(
        jaxrnn.LSTM(4, name="own"), jaxrnn.GRU(4), name="wrapped"
    ),
    "stacked": lambda: jaxrnn.Stacked([jaxrnn.GRU(4), jaxrnn.GRU(4)], name="wrapped"),
    "nested": lambda: jaxrnn.Stacked(
        jaxrnn.Bidirectional(jaxrnn.RNN(nn.GRUCell(4))), num_layers=2, name="wrapped"
    ),
    "over_time": lambda: jaxrnn.TimeDistributed(
        nn.Sequential([nn.Dense(3), nn.Dense(2)]), name="wrapped"
    ),
    "model": lambda: jaxrnn.Forecaster(
        jaxrnn.Bidirectional(jaxrnn.GRU(4)), hidden_features=2, name="wrapped"
    ),
}


class MadeOutside(nn.Module):
    wrapped: nn.Module

    def __call__(self, inputs):
        return self.wrapped(inputs)


class MadeInCompact(nn.Module):
    make: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, inputs):
        return self.make()(inputs)


class MadeInSetup(nn.Module):
    make: Callable[[], nn.Module]

    def setup(self):
        self.wrapped = self.make()

    def __call__(self, inputs):
        return self.wrapped(inputs)


WRITTEN = [(name, None) for name in WRAPPED] + [
    ("stacked", nn.jit),
    ("stacked", nn.remat),
]


@pytest.mark.parametrize(("name", "lift"), WRITTEN)
def test_parameters_stand_in_the_wrapper_wherever_it_was_written(name, lift):
    make = WRAPPED[name]
    outside = MadeOutside(make().clone(name=None))
    want = outside.init(jax.random.key(0), INPUTS)
    assert list(want["params"]) == ["wrapped"]
    for model_class in (MadeInCompact, MadeInSetup):
        model = (model_class if lift is None else lift(model_class))(make)
        found = model.init(jax.random.key(0), INPUTS)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, want)
        if lift is not nn.jit:  # which draws by other keys, whatever the layer
            jax.tree.map(np.testing.assert_array_equal, found, want)
        assert_close(model.apply(want, INPUTS), outside.apply(want, INPUTS))


LIFTED = {
    "Bidirectional": lambda lift: lift(jaxrnn.Bidirectional)(jaxrnn.LSTM(4)),
    "Stacked": lambda lift: lift(jaxrnn.Stacked)(
        jaxrnn.Bidirectional(jaxrnn.GRU(4)), num_layers=2
    ),
    "TimeDistributed": lambda lift: lift(jaxrnn.TimeDistributed)(jaxrnn.GRU(4)),
    "Forecaster": lambda lift: lift(jaxrnn.Forecaster)(
        jaxrnn.GRU(4), hidden_features=2
    ),
    "Sequential": lambda lift: lift(jaxrnn.Sequential)(
        [
            jaxrnn.RNN(nn.GRUCell(4)),
            jaxrnn.Sequential([jaxrnn.Bidirectional(jaxrnn.GRU(4))]),
        ]
    ),
}


@pytest.mark.parametrize("name", LIFTED)
@pytest.mark.slow
def test_a_wrapper_may_be_lifted_as_a_class(name):
    """Its parameters stand where they stood; `vmap` gives them an axis."""
    make = LIFTED[name]
    inputs = jnp.stack([INPUTS] * 2) if name == "TimeDistributed" else INPUTS
    plain = make(lambda module_class: module_class)
    want, variables = plain.init_with_output(jax.random.key(0), inputs)
    for lift in (nn.remat, nn.jit):
        made_inside = MadeInCompact(functools.partial(make, lift))
        inside = made_inside.init(jax.random.key(0), inputs)["params"]
        assert len(jax.tree.leaves(inside)) == len(jax.tree.leaves(variables))
        lifted = make(lift)
        found = jax.eval_shape(lifted.init, jax.random.key(0), inputs)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables)
        assert_close(lifted.apply(variables, inputs), want)

    def both(module_class):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        return nn.vmap(module_class, in_axes=0, **options)

    two = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), variables)
    found = make(both).apply(two, jnp.stack([inputs, inputs]))
    assert_close(found[0], want)
    assert not np.allclose(found[1], want)


def test_a_bound_layer_is_copied_not_shared():
    class Model(nn.Module):
        def setup(self):
            self.alone = jaxrnn.GRU(FEATURES, return_sequences=True)
            self.both = jaxrnn.Bidirectional(self.alone)

        def __call__(self, inputs):
            return self.both(self.alone(inputs))

    params = Model().init(jax.random.key(0), INPUTS)["params"]
    assert {name: sorted(value)[:2] for name, value in params.items()} == {
        "alone": ["bias", "kernel"],
        "both": ["forward", "reverse"],
    }


# Time as batch.


class Words(NamedTuple):
    """(batch, sentences, words, features), and which words there are."""

    inputs: Any = jax.random.normal(jax.random.key(2), (2, 3, TIME, FEATURES))
    mask: Any = jnp.asarray(
        np.arange(TIME) < np.array([[[5], [2], [1]], [[3], [0], [4]]])
    )


@BOTH_FAMILIES
def test_time_distributed_hands_a_mask_on_to_a_layer_that_takes_one(family):
    inputs, mask = Words()
    layer = family.make("GRU")
    call = {"mask": mask}
    if family.names is jaxrnn.nnx:
        found = jaxrnn.nnx.TimeDistributed(layer)(inputs, **call)
    else:
        params = draw(jax.eval_shape(layer.init, jax.random.key(1), inputs[:, 0]))
        found = jaxrnn.TimeDistributed(layer).apply(
            {"params": {"layer": params["params"]}}, inputs, **call
        )
    for i in range(inputs.shape[1]):  # one sentence after another, as Keras does
        want = family.call(layer, inputs[:, i], mask=mask[:, i])
        np.testing.assert_allclose(found[:, i], want, rtol=0, atol=2e-6)
    assert not found[1, 1].any()  # no word, no output


def test_time_distributed_layer_without_a_mask_acts_on_all_steps():
    """As in Keras."""
    layer = jaxrnn.TimeDistributed(nn.Dense(2))
    variables = layer.init(jax.random.key(0), INPUTS, mask=HOLES)
    found = layer.apply(variables, INPUTS, mask=HOLES, deterministic=False)
    np.testing.assert_array_equal(found, layer.apply(variables, INPUTS))
    with pytest.raises(ValueError, match=r"of inputs \(3, 5\), got shape \(5, 3\)"):
        layer.apply(variables, INPUTS, mask=HOLES.T)


@BOTH_FAMILIES
def test_time_distributed_recurrent_layer_has_steps_of_its_own(family):
    """Over (batch * time, features) it would read the batch as time."""
    layer = family.make("GRU", return_sequences=True)
    wrapped = family.names.TimeDistributed(layer)
    with pytest.raises(ValueError, match="it runs without TimeDistributed"):
        family.call(wrapped)
    assert family.call(layer).shape == INPUTS.shape


def test_time_distributed_layer_keeps_its_rows(untyped):
    with pytest.raises(ValueError, match=r"one row per row, \(15,\), got shape \(4,\)"):
        jaxrnn.nnx.TimeDistributed(lambda x: x.sum(axis=0))(INPUTS)
    for wrong in (None, nnx.Linear, nn.Dense(2)):
        with pytest.raises(TypeError, match="takes a module of NNX, such as"):
            untyped(jaxrnn.nnx.TimeDistributed)(wrong)


def test_time_distributed_noise():
    layer = jaxrnn.TimeDistributed(jaxrnn.GRU(FEATURES, dropout=0.5))
    inputs, _ = Words()
    variables = layer.init(jax.random.key(0), inputs)
    rngs = {"dropout": jax.random.key(1)}
    trained = layer.apply(variables, inputs, deterministic=False, rngs=rngs)
    assert (trained != layer.apply(variables, inputs)).any()


# Settings.


def test_options_are_keywords():
    """Their order means nothing."""
    for name in ("RecurrentOptions", "CellOptions", "LSTMOptions"):
        fields = dataclasses.fields(getattr(jaxrnn.layers.options, name))
        assert [field.name for field in fields if not field.kw_only] == ["features"]


def test_wrong_axes_are_explained_in_the_words_of_a_layer(untyped):
    for family in FAMILIES.values():
        layer = family.make("GRU")
        call = untyped(family.call)
        with pytest.raises(
            ValueError, match=r"mask .* \(\*batch, time\) shape of inputs"
        ):
            call(layer, mask=HOLES.T)
        with pytest.raises(TypeError, match="mask must be boolean with True = valid"):
            call(layer, mask=HOLES.astype(jnp.int32))
        layer = family.make("GRU", time_major=True)
        with pytest.raises(ValueError, match=r"resets .* \(time, \*batch\) shape"):
            call(layer, resets=RESETS.T)


# What does not fit is refused, by whichever way it comes in.


@BOTH_FAMILIES
@pytest.mark.parametrize("rate", [1.5, -1.0])
def test_dropout_between_layers_is_a_share(family, rate):
    layers = [family.make("GRU"), family.make("GRU")]
    with pytest.raises(ValueError, match=rf"dropout must lie in \[0, 1\), got {rate}"):
        family.names.Stacked(layers, dropout=rate)


def test_a_single_key_is_one_for_dropout_too():
    layer = jaxrnn.LSTM(3, dropout=0.5)
    variables = layer.init(jax.random.key(0), INPUTS)
    with pytest.raises(ValueError, match="say deterministic=False to train"):
        layer.apply(variables, INPUTS, rngs=jax.random.key(1))


def test_a_mask_reaches_a_layer_behind_any_keywords():
    frames = jnp.ones((2, 3, 5, FEATURES))
    mask = np.broadcast_to(np.arange(5) < np.array([[2], [0], [5]]), (2, 3, 5))
    plain = jaxrnn.TimeDistributed(jaxrnn.LSTM(3))
    variables = plain.init(jax.random.key(0), frames)
    want = plain.apply(variables, frames, mask=mask)
    behind = jaxrnn.TimeDistributed(nn.Sequential([jaxrnn.LSTM(3)]))
    params = {"layer": {"layers_0": variables["params"]["layer"]}}
    found = behind.apply({"params": params}, frames, mask=mask)
    np.testing.assert_array_equal(found, want)
    assert (found[:, 1] == 0).all()


@BOTH_FAMILIES
@pytest.mark.parametrize("lengths", [[99, 1], [-5, 1]])
def test_lengths_lie_within_the_steps(family, lengths):
    layer = family.make("GRU")
    inputs = jnp.ones((2, 6, FEATURES))
    with pytest.raises(ValueError, match="between 0 and the number of steps, 6"):
        family.call(layer, inputs, lengths=lengths)


@pytest.mark.parametrize(
    "options", [{"return_sequences": True}, {"return_carry": True}]
)
def test_a_model_takes_the_last_output(options):
    model = jaxrnn.TextClassifier(9, 2, jaxrnn.GRU(3, **options))
    with pytest.raises(ValueError, match="recurrent must return its last output"):
        model.init(jax.random.key(0), jnp.ones((2, 4), int))


def test_rates_that_do_not_fit_leave_no_trace():
    """A pair equals an LSTMCarry, and is refused, whichever comes first."""
    params = jaxrnn.init_params(jaxrnn.lstm, jax.random.key(0), FEATURES, 3)
    run = lambda rate: jaxrnn.rnn(  # noqa: E731
        jaxrnn.zoneout_cell(jaxrnn.lstm, rate),
        params,
        jnp.moveaxis(INPUTS, 1, 0),
        key=jax.random.key(1),
    )
    with pytest.raises(ValueError, match="rates of zoneout"):
        run((0.1, 0.5))
    carry, _ = run(jaxrnn.LSTMCarry(0.1, 0.5))
    assert jnp.isfinite(carry.memory).all()
