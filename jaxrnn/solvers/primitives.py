"""What do solvers need that JAX has no function for? Three primitives, and no more.

`linear_call`    a linear map with a transpose written by hand. `jax.custom_vjp` knows
                 the transpose alone and forbids forward mode; `jax.linear_call` knows
                 no `vmap`.
`here_or_there`  one function where a program runs at once, and another one where it is
                 exported or compiled for another platform.
`no_derivative`  the identity, which says why it has none. JAX before 0.12 drops the
                 rules of `jax.custom_jvp` and `jax.custom_vjp` where a gradient of a
                 `lax.scan` is differentiated again; a primitive it keeps.

All that this package takes from the inside of JAX (`jax.interpreters`) is in here.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxrnn.cells.ops import as_varying


@runtime_checkable
class LinearMap(Protocol):
    """Linear in `tangents`; compared by value, so that equal calls share a program."""

    def apply(self, kept: Sequence[Array], tangents: Sequence[Array]) -> list[Array]:
        """The map itself, which JAX can differentiate."""
        ...

    def transpose(
        self, kept: Sequence[Array], cotangents: Sequence[Array | None]
    ) -> list[Array]:
        """One cotangent for each tangent; None = a cotangent known to be zero."""
        ...


def linear_call(
    linear: LinearMap,
    kept: Sequence[Array],
    tangents: Sequence[Array],
    like: Sequence[Array],
) -> list[Array]:
    """`linear.apply(kept, tangents)`, whose transpose is `linear.transpose`.

    Neither is traced before it is needed: a gradient never traces `apply`. Under `vmap`
    both are mapped; a derivative with respect to `kept` is JAX's own of `apply`.

    Args:
      linear: the map.
      kept: what it depends on in other ways than linearly.
      tangents: what it is linear in.
      like: the results have the shapes and dtypes of these.
    """
    results = tuple(jax.typeof(x).to_tangent_aval() for x in like)
    tangents = as_varying(tangents, like=like)  # whose transpose adds up over devices
    return _linear.bind(
        *kept, *tangents, linear=linear, number=len(kept), results=results
    )


def here_or_there(
    here: Callable[..., Any],
    there: Callable[..., Any],
    static: Hashable,
    *arguments: Any,
    platform: str,
) -> Any:
    """`here(static, *arguments)`, but `there` in a program for somewhere else.

    That is a program that `jax.export` makes, or one for another platform. It has no
    derivative.

    Args:
      here: may call into other libraries; a function of this module or that one, not
        made anew in every call.
      there: computes the same, in JAX alone.
      static: what both are called with first.
      arguments: pytrees of arrays.
      platform: where `here` can run.

    Example:
      >>> def here(axis, x):
      ...     return jax.pure_callback(functools.partial(np.sort, axis=axis), x, x)
      >>> def there(axis, x):
      ...     return jnp.sort(x, axis=axis)
      >>> def ascending(x):
      ...     return here_or_there(here, there, 0, x, platform="cpu")
      >>> x = jnp.array([2.0, 1.0])
      >>> ascending(x).tolist()
      [1.0, 2.0]
      >>> "callback" in jax.export.export(jax.jit(ascending))(x).mlir_module()
      False
    """
    leaves, structure = jax.tree.flatten(arguments)
    traced, results = jax.make_jaxpr(
        functools.partial(here, static), return_shape=True
    )(*arguments)
    found = _either.bind(
        *leaves,
        here=_OfLeaves(here, static, structure),
        there=_OfLeaves(there, static, structure),
        platform=platform,
        results=tuple(traced.out_avals),
    )
    return jax.tree.structure(results).unflatten(found)


def no_derivative(x: Array, words: str) -> Array:
    """`x`; a TypeError with these words where a derivative goes through it."""
    return _refusing.bind(x, words=words)


def _results(*arguments: Any, results: Any, **parameters: Any) -> Any:
    del arguments, parameters
    return results


@dataclasses.dataclass(frozen=True)
class _OfLeaves:
    """A function of pytrees as one of arrays."""

    function: Callable[..., Any]
    static: Hashable
    structure: Any

    def __call__(self, *leaves: Array) -> list[Array]:
        arguments = self.structure.unflatten(leaves)
        return jax.tree.leaves(self.function(self.static, *arguments))


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A function of one list of arrays, under `vmap`; every result has the axis."""

    function: Callable[..., Any]
    axes: tuple[int | None, ...]

    def __call__(self, *arguments: Array) -> list[Array]:
        return jax.vmap(self.function, in_axes=self.axes)(*arguments)


@dataclasses.dataclass(frozen=True)
class _MappedLinear:
    """A linear map under `vmap`: tangents and results have the axis, `kept` may."""

    linear: LinearMap
    axes: tuple[int | None, ...]

    def apply(self, kept: Sequence[Array], tangents: Sequence[Array]) -> list[Array]:
        axes = (list(self.axes), 0)
        return jax.vmap(self.linear.apply, in_axes=axes)(list(kept), list(tangents))

    def transpose(
        self, kept: Sequence[Array], cotangents: Sequence[Array | None]
    ) -> list[Array]:
        axes = (list(self.axes), 0)
        return jax.vmap(self.linear.transpose, in_axes=axes)(
            list(kept), list(cotangents)
        )


def _in_front(
    arguments: Any, axes: Any
) -> tuple[list[Any], tuple[int | None, ...], int]:
    """The axis of `vmap` as the first one of each that has it, and its size."""
    size = next(
        x.shape[axis]
        for x, axis in zip(arguments, axes, strict=True)
        if axis is not None
    )
    moved = [
        x if axis is None else batching.bdim_at_front(x, axis, size)
        for x, axis in zip(arguments, axes, strict=True)
    ]
    return moved, tuple(None if axis is None else 0 for axis in axes), size


def _with_axis(results: Any, size: int) -> Any:
    def batched(x: Any) -> Any:
        spec = jax.sharding.PartitionSpec(None, *x.sharding.spec)
        sharding = x.sharding.update(spec=spec)
        return x.update(shape=(size, *x.shape), sharding=sharding)

    return tuple(map(batched, results))


# `linear_call`.

_linear = Primitive("jaxrnn_linear_call")
_linear.multiple_results = True
_linear.def_abstract_eval(_results)


@_linear.def_impl
def _apply(
    *arguments: Array, linear: LinearMap, number: int, results: Any
) -> list[Array]:
    del results
    return list(linear.apply(arguments[:number], arguments[number:]))


def _linear_jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[Any, Any]:
    varies = [not isinstance(x, ad.Zero) for x in tangents]

    def run(*varying: Array) -> list[Array]:
        given = iter(varying)
        pairs = zip(primals, varies, strict=True)
        return _apply(*(next(given) if v else x for x, v in pairs), **parameters)

    def those(values: Any) -> list[Any]:
        return [x for x, v in zip(values, varies, strict=True) if v]

    return jax.jvp(run, those(primals), those(tangents))


def _linear_transpose(
    cotangents: Any, *arguments: Any, linear: LinearMap, number: int, results: Any
) -> list[Any]:
    del results
    assert all(map(ad.is_undefined_primal, arguments[number:]))
    known = [None if isinstance(x, ad.Zero) else x for x in cotangents]
    return [None] * number + list(linear.transpose(arguments[:number], known))


def _linear_batching(
    arguments: Any, axes: Any, *, linear: LinearMap, number: int, results: Any
) -> tuple[Any, Any]:
    moved, axes, size = _in_front(arguments, axes)
    tangents = [
        x if axis is not None else batching.broadcast(x, size, 0, None)
        for x, axis in zip(moved[number:], axes[number:], strict=True)
    ]
    found = _linear.bind(
        *moved[:number],
        *tangents,
        linear=_MappedLinear(linear, axes[:number]),
        number=number,
        results=_with_axis(results, size),
    )
    return found, [0] * len(found)


ad.primitive_jvps[_linear] = _linear_jvp
ad.primitive_transposes[_linear] = _linear_transpose
batching.primitive_batchers[_linear] = _linear_batching
mlir.register_lowering(_linear, mlir.lower_fun(_apply, multiple_results=True))


# `here_or_there`.

_either = Primitive("jaxrnn_here_or_there")
_either.multiple_results = True
_either.def_abstract_eval(_results)


@functools.partial(jax.jit, static_argnames=("here", "there", "platform", "results"))
def _compiled(*arguments: Array, **parameters: Any) -> list[Array]:
    return _either.bind(*arguments, **parameters)


_either.def_impl(_compiled)


def _either_batching(
    arguments: Any, axes: Any, *, here: Any, there: Any, platform: str, results: Any
) -> tuple[Any, Any]:
    moved, axes, size = _in_front(arguments, axes)
    found = _either.bind(
        *moved,
        here=_Mapped(here, axes),
        there=_Mapped(there, axes),
        platform=platform,
        results=_with_axis(results, size),
    )
    return found, [0] * len(found)


def _either_lowering(
    context: mlir.LoweringRuleContext, *arguments: Any, **parameters: Any
) -> Any:
    module = context.module_context
    is_here = tuple(module.platforms) == (parameters["platform"],)
    exported = module.lowering_parameters.for_export
    function = parameters["here" if is_here and not exported else "there"]
    return mlir.lower_fun(function, multiple_results=True)(context, *arguments)


batching.primitive_batchers[_either] = _either_batching
mlir.register_lowering(_either, _either_lowering)


# `no_derivative`.

_refusing = Primitive("jaxrnn_no_derivative")
_refusing.def_impl(lambda x, words: x)
_refusing.def_abstract_eval(lambda x, words: x)


def _refuse(primals: Any, tangents: Any, words: str) -> Any:
    raise TypeError(words)


ad.primitive_jvps[_refusing] = _refuse
batching.defvectorized(_refusing)
mlir.register_lowering(_refusing, lambda context, x, words: [x])
