"""What do layers around layers do with arrays: two directions, stacks, time?"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.cells.checks import as_array
from jaxrnn.cells.ops import explicit_sharding
from jaxrnn.layers.options import CallOptions
from jaxrnn.layers.run import Ran, Runs
from jaxrnn.solvers.base import Steps

Merge = Callable[[Array, Array], Array]


def check_layers(layers: Sequence[Any], family: type) -> None:
    """Raises where something else than a layer is given, or one of the other family.

    Args:
      layers: what is given.
      family: `nn.Module` or `nnx.Module`.
    """
    whose = "jaxrnn.nnx" if "nnx" in family.__module__ else "jaxrnn"
    for layer in layers:
        if not isinstance(layer, family) or not isinstance(layer, Runs):
            raise TypeError(
                f"a layer around layers takes those of {whose}, such as LSTM(32), or "
                f"its RNN around a Flax cell, got {layer!r}."
            )


# Two directions.


def concatenate(forward: Array, reverse: Array) -> Array:
    """Puts the outputs of two directions side by side: Keras' `merge_mode="concat"`.

    Example:
      >>> concatenate(jnp.zeros((5, 2)), jnp.ones((5, 2))).shape
      (5, 4)
    """
    return jnp.concatenate([forward, reverse], axis=-1)


def average(forward: Array, reverse: Array) -> Array:
    """The mean of two directions: Keras' `merge_mode="ave"`.

    Example:
      >>> average(jnp.zeros((1, 2)), jnp.ones((1, 2))).tolist()
      [[0.5, 0.5]]
    """
    return (forward + reverse) / 2


def check_both(forward: Runs, reverse: Runs, merge: Merge | None) -> None:
    """Raises where two layers are not the two directions of one."""
    if merge is not None and not callable(merge):
        raise TypeError(
            "merge must be a function of two arrays, such as jaxrnn.concatenate, "
            f"jnp.add or jnp.multiply, or None for the pair, got {merge!r}."
        )
    one, other = forward.call_options, reverse.call_options
    if one.reverse:
        raise ValueError(
            "forward must run from the first step to the last, got a layer with "
            "reverse=True; give it as reverse."
        )
    for name in ("return_sequences", "return_carry", "return_all_carries"):
        if getattr(one, name) != getattr(other, name):
            raise ValueError(
                f"both directions must return the same, got {name}="
                f"{getattr(one, name)} forward and {getattr(other, name)} in reverse; "
                "give both the same options."
            )
    _check_axes((one, other))


def _check_axes(options: Sequence[CallOptions]) -> None:
    if len({one.time_major for one in options}) > 1:
        raise ValueError(
            "layers that work together must all be time_major or none of them, got "
            f"{[one.time_major for one in options]}."
        )


@runtime_checkable
class Both(Protocol):
    """A Bidirectional as `run_both` sees it."""

    forward: Any
    reverse: Any
    merge: Merge | None


def run_both(
    layer: Both,
    steps: Steps,
    initial_carry: Any,
    *,
    reverse: bool,
    deterministic: bool,
) -> Ran:
    """Runs `forward` and `reverse` in opposite directions, and merges; see `Runs`.

    A `reverse` that is reversed by itself stays as it is; any other is turned round.
    """
    first, second = _carries_of(initial_carry, 2, "directions (forward, reverse)")
    forward = layer.forward.run(
        steps, first, reverse=reverse, deterministic=deterministic
    )
    is_reversed = layer.reverse.call_options.reverse
    backward = layer.reverse.run(
        steps, second, reverse=reverse == is_reversed, deterministic=deterministic
    )

    def both(one: Any, other: Any) -> Any:
        return (one, other) if layer.merge is None else layer.merge(one, other)

    return Ran(
        carry=(forward.carry, backward.carry),
        outputs=both(forward.outputs, backward.outputs),
        last=both(forward.last, backward.last),
        carries=(forward.carries, backward.carries),
    )


NO_STEP = (
    "a Bidirectional has no single step, as its second direction begins at the end of "
    "the sequence; call it with the whole sequence, or step a layer that runs forward."
)


def _carries_of(carries: Any, number: int, whose: str) -> Sequence[Any]:
    """One carry for each of the layers inside; None gives None to all."""
    if carries is None:
        return [None] * number
    is_plain = isinstance(carries, tuple | list) and not hasattr(carries, "_fields")
    if not is_plain or len(carries) != number:
        found = len(carries) if is_plain else f"a {type(carries).__name__}"
        raise ValueError(
            f"the carry must be a tuple with one for each of the {number} {whose}, got "
            f"{found}; initial_carry of the layer makes one of zeros."
        )
    return carries


# Layer upon layer.


def listed(layers: Any, num_layers: int | None) -> list[Any]:
    """The layers of a `Stacked` that were given."""
    if isinstance(layers, Sequence):
        if num_layers is not None or not layers:
            raise ValueError(
                "layers must be one layer and num_layers, or a sequence of at least "
                f"one layer, got {len(layers)} layers and num_layers={num_layers}."
            )
        return list(layers)
    if not isinstance(num_layers, int | np.integer) or num_layers < 1:
        found = "a layer" if isinstance(num_layers, Runs) else num_layers
        raise ValueError(
            f"one layer is repeated num_layers times, 1 or more, got {found}; several "
            "are a list, Stacked([first, second])."
        )
    return [layers]


def check_stack(layers: Sequence[Runs]) -> None:
    """Raises where layers do not fit upon one another."""
    options = [layer.call_options for layer in layers]
    _check_axes(options)
    for one in options[:-1]:
        if one.reverse and not one.keep_order:
            raise ValueError(
                "a layer below another hands its outputs on in input order, got one "
                "with keep_order=False; leave that out, or flip between two calls."
            )
        if options[-1].return_all_carries and not one.return_all_carries:
            raise ValueError(
                "the last layer returns the carries of all layers after every step, so "
                "those below need return_all_carries=True too, got one without."
            )


def run_stack(
    layers: Sequence[Runs],
    steps: Steps,
    initial_carry: Any,
    *,
    reverse: bool,
    deterministic: bool,
    between: Callable[[Array], Array],
) -> Ran:
    """Runs layer upon layer; `between` acts on what is handed on. See `Runs`."""
    carries = _carries_of(initial_carry, len(layers), "layers")
    all_ran: list[Ran] = []
    for layer, carry in zip(layers, carries, strict=True):
        if all_ran:
            outputs = all_ran[-1].outputs
            if isinstance(outputs, tuple):
                raise ValueError(
                    "a layer below another must hand on one array, got a pair of a "
                    "Bidirectional with merge=None; give it a function."
                )
            steps = steps._replace(inputs=between(outputs))
        ran = layer.run(steps, carry, reverse=reverse, deterministic=deterministic)
        all_ran.append(ran)
    return all_ran[-1]._replace(
        carry=tuple(ran.carry for ran in all_ran),
        carries=tuple(ran.carries for ran in all_ran),
    )


def dropped(drop: Callable[[Array], Array], outputs: Array) -> Array:
    """What a Dropout of Flax leaves of outputs, on a mesh with explicit axes too.

    Its mask is whole on every device. To choose by it, as Flax does, takes one that is
    divided as the outputs are; to multiply does not.
    """
    if explicit_sharding(outputs) is None:
        return drop(outputs)
    return outputs * drop(jnp.ones(outputs.shape, outputs.dtype))


def step_stack(
    layers: Sequence[Any], carries: Any, inputs: Any, resets: Any
) -> tuple[Any, Array]:
    """One time step of layer upon layer."""
    after, outputs = [], inputs
    for layer, carry in zip(
        layers, _carries_of(carries, len(layers), "layers"), strict=True
    ):
        carry, outputs = layer.step(carry, outputs, resets=resets)
        after.append(carry)
    return tuple(after), outputs


def check_separate(parts: Sequence[set[int]]) -> None:
    """Raises where layers have an object in common, by the ids of what they hold."""
    if len(set().union(*parts)) < sum(map(len, parts)):
        raise ValueError(
            "every layer inside another must be an object of its own, got the same "
            "object twice, which would share its parameters; make two of them, or "
            "write Stacked(layer, num_layers=2) and Bidirectional(layer)."
        )


# Time as batch.


def over_time(layer: Any, inputs: Any, *, mask: Any, deterministic: bool | None) -> Any:
    """Applies a layer to every time step: time becomes a part of the batch axis.

    The program does not grow with time.

    Args:
      layer: a function of (batch, ...), such as a Dense or convolution layer.
      inputs: (batch, time, ...).
      mask: (batch, time, ...), handed on to a layer that has such an argument.
      deterministic: the same; None leaves it out.

    Returns:
      What the layer returns, with the axes (batch, time, ...).

    Raises:
      TypeError: inputs that are no array.
      ValueError: too few axes, for a recurrent layer (batch, time, steps, features);
        a mask of others; a layer that does not return a row per row.
    """
    inputs = as_array("inputs", inputs)
    kind: Any = layer
    if isinstance(kind, Runs) and inputs.ndim < 4:
        raise ValueError(
            "a recurrent layer at every step reads steps of its own, of inputs (batch, "
            f"time, steps, in_features), got shape {inputs.shape}; over the axis time "
            "it runs without TimeDistributed."
        )
    if inputs.ndim < 3:
        raise ValueError(
            "inputs must have the axes (batch, time, ...) with one feature axis or "
            f"more, got shape {inputs.shape}."
        )
    axes = inputs.shape[:2]
    taken = inspect.signature(type(layer).__call__).parameters
    given: dict[str, Any] = {}
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape[:2] != axes:
            raise ValueError(
                f"mask must have the axes (batch, time, ...) of inputs {axes}, got "
                f"shape {mask.shape}."
            )
        given["mask"] = mask.reshape(-1, *mask.shape[2:])
    if deterministic is not None:
        given["deterministic"] = deterministic
    if all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        given = {name: value for name, value in given.items() if name in taken}
    inputs = inputs.reshape(-1, *inputs.shape[2:])
    rows = layer(inputs, **given)
    for leaf in jax.tree.leaves(rows):
        if leaf.shape[:1] != inputs.shape[:1]:
            raise ValueError(
                "the layer of a TimeDistributed must return one row per row, "
                f"{inputs.shape[:1]}, got shape {leaf.shape}; a module that reduces "
                "over rows stands by itself."
            )
    return jax.tree.map(lambda x: x.reshape(*axes, *x.shape[1:]), rows)
