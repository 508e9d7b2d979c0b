"""What is checked on the host, where a compiled function sees shapes alone?"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from jaxrnn.data.batches import check_integers
from jaxrnn.metrics import Mean
from jaxrnn.train.devices import check_sharding, everywhere

P = ParamSpec("P")
R = TypeVar("R")


def everything_everywhere(
    sharding: NamedSharding, arrays: Mapping[str, PyTree], over: Any
) -> dict[str, PyTree]:
    """The arrays among the arguments of a function, the same on every device."""
    del over
    return {name: everywhere(sharding, array) for name, array in arrays.items()}


def checked_first(
    check: Callable[..., None],
    place: Callable[..., Mapping[str, PyTree]] = everything_everywhere,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs `check` on the arguments of every call of a function that is jitted.

    With a `sharding` among them, the arrays are then put onto its mesh.

    What is jitted can be compiled ahead of time as ever: `lower` and `trace` are those
    of the function inside, and they check nothing.

    Args:
      check: takes what the function takes.
      place: `(sharding, {name: arrays}, over) -> {name: arrays on the mesh}`.
    """

    def decorate(jitted: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(jitted)
        by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
        of_arrays = {
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind == by_position or name == "noise_key"
        }

        @functools.wraps(jitted)
        def function(*args: P.args, **kwargs: P.kwargs) -> R:
            check(*args, **kwargs)
            sharding: Any = kwargs.get("sharding")
            if sharding is None:
                return jitted(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            check_sharding(sharding)
            arrays = {name: given[name] for name in of_arrays & given.keys()}
            placed: Any = {**given, **place(sharding, arrays, given.get("over"))}
            by_name: Any = jitted
            return by_name(**placed)

        for name in ("lower", "trace", "eval_shape", "clear_cache", "_cache_size"):
            setattr(function, name, getattr(jitted, name))
        return function

    return decorate


def check_function(
    name: str, function: Any, form: str, *arguments: Any, way_out: str
) -> None:
    """Raises a TypeError where something is no function, or one of other arguments.

    Args:
      name: for the message.
      function: what is given.
      form: `(arguments) -> result`, for the message.
      *arguments: some to call it with; it is not called.
      way_out: what to write.
    """
    if isinstance(function, type):
        found = f"the class {function.__name__}"
    elif not callable(function):
        is_short = isinstance(function, str | float | int | None)
        found = repr(function) if is_short else type(function).__name__
    else:
        try:
            signature = inspect.signature(function)
        except ValueError:  # a function in C need not say what it takes
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            found = f"one of ({', '.join(signature.parameters)})"
        else:
            return
    raise TypeError(f"{name} must be a function {form}, got {found}; {way_out}")


def check_key(name: str, key: Any) -> None:
    """Raises a TypeError where a key is not from `jax.random.key`."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        found = repr(key) if dtype is None else f"an array of {dtype}"
        raise TypeError(
            f"{name} must be a typed key, got {found}; make one with "
            "jax.random.key(seed)."
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises a TypeError where an optimizer is not one of Optax."""
    if not isinstance(optimizer, optax.GradientTransformation):
        found = getattr(optimizer, "__name__", None) or repr(optimizer)
        raise TypeError(
            f"optimizer must be an Optax transformation, got {found}; write "
            "jaxrnn.keras_adam(0.001), say, or optax.adam(0.001)."
        )


def returned_by(
    loss_fn: Callable[..., Any], *arguments: Any, with_carry: bool = False
) -> Any:
    """What a `loss_fn` returns, if it is a loss and means.

    A program that is traced runs this once, so that it costs no update anything.

    Args:
      loss_fn: the function to call.
      *arguments: what it takes.
      with_carry: whether it returns a carry beside the means, for a stream.

    Raises:
      TypeError: a `loss_fn` that is no function, or takes or returns something else.
    """
    form = "(loss, (carry, {name: Mean}))" if with_carry else "(loss, {name: Mean})"
    takes = "(params, carry, batch" if with_carry else "(params, batch"
    takes += ", key)" if len(arguments) > 2 + with_carry else ")"
    way_out = (
        "jaxrnn.squared_error_loss, classification_loss, binary_classification_loss "
        "and multi_label_loss return a loss and its means; of losses of your own "
        'loss = Mean.of(losses, batch.sample_weight) gives loss.value and {"loss": '
        "loss}."
    )
    full = f"{takes} -> {form}"
    check_function("loss_fn", loss_fn, full, *arguments, way_out=way_out)
    returned = loss_fn(*arguments)
    loss, means = _pair(returned)
    if with_carry:
        _, means = _pair(means)
    is_scalar = isinstance(loss, float | int) or getattr(loss, "shape", None) == ()
    are_means = isinstance(means, Mapping) and all(
        isinstance(mean, Mean) for mean in means.values()
    )
    if not is_scalar or not are_means:
        raise TypeError(
            f"loss_fn must return {form}, the loss a scalar, got "
            f"{_written(returned)}; {way_out}"
        )
    return returned


def _pair(values: Any) -> tuple[Any, Any]:
    is_one = isinstance(values, tuple) and len(values) == 2
    return values if is_one else (None, None)


def _written(tree: PyTree) -> str:
    """A pytree with shapes and dtypes in place of its arrays."""

    def written(leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            return type(leaf).__name__
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    return str(jax.tree.map(written, tree)).replace("'", "")


def check_order(order: Any, examples: int) -> None:
    """Raises where an order of visiting is known and names a row that is not there.

    It is read back from the device where it lies there: once an epoch, a number a row.
    """
    dtype = getattr(order, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            "order must be an array of integers, the rows to visit, got "
            f"{dtype or type(order).__name__}; np.flatnonzero makes them of a mask."
        )
    if order.size == 0 or not _is_known(order):
        return
    rows = jax.device_get(order)
    if rows.min() < 0 or rows.max() >= examples:
        raise ValueError(
            f"order must hold rows of the dataset, from 0 to {examples - 1}, got "
            f"{rows.min()} to {rows.max()}; jax.random.permutation(key, {examples}) "
            "visits each once."
        )


def _is_known(array: Any) -> bool:
    """Whether its values are at hand: no trace is running, no other host has a part."""
    if isinstance(array, np.ndarray):
        return True
    return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable


def check_all_integers(name: str, arrays: PyTree) -> None:
    """Raises where integers of NumPy would wrap around; see `check_integers`."""
    for leaf in jax.tree.leaves(arrays):
        check_integers(name, leaf)


def rows_of(inputs: PyTree) -> int:
    """The number of rows that arrays have in common.

    Raises:
      TypeError: what is no array.
      ValueError: none at all, or another number in one than in the others.
    """
    leaves = jax.tree.leaves(inputs)
    for leaf in leaves:
        if not hasattr(leaf, "shape"):
            raise TypeError(
                "inputs must be an array, or a tuple, list or dict of arrays, got "
                f"{type(leaf).__name__} in {type(inputs).__name__}; np.asarray makes "
                "an array of numbers."
            )
    shapes = [leaf.shape for leaf in leaves]
    rows = {shape[:1] for shape in shapes}
    if len(rows) != 1 or rows & {(), (0,)}:
        raise ValueError(
            "inputs must be arrays with a common first axis of at least one row, got "
            f"shapes {shapes}."
        )
    return shapes[0][0]
