"""How does a loop get a derivative that JAX does not know, in both directions?"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxrnn.cells.ops import as_varying
from jaxrnn.solvers.primitives import linear_call


def with_backward(
    value: Callable[..., Any],
    *,
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[..., Any],
    reference: Callable[..., Any],
) -> Callable[..., Any]:
    """`value` with a backward pass written by hand, and JAX's own forward mode.

    It differs from `jax.custom_vjp` in that `jax.jvp` works, and what is made of it
    (`jax.jacfwd`, `jax.hessian`); they differentiate `reference`.

    Args:
      value: `value(static, *primals) -> results`, pytrees of arrays.
      forward: `forward(static, *primals) -> (results, kept)`; runs in place of `value`
        where a derivative is asked for, and keeps what `backward` wants to find again.
      backward: `backward(static, primals, kept, cotangents, varies) -> cotangents of
        primals`. None is a cotangent known to be zero, and what nobody asks for;
        `varies` has the structure of `primals` and says what is asked for.
      reference: computes what `value` does, in JAX alone.

    Returns:
      A function of `static`, which can be hashed, and of the primals.

    Example:
      >>> def power(n, x):
      ...     return x**n
      >>> def forward(n, x):
      ...     return x**n, x ** (n - 1)  # computed once, for both directions
      >>> def backward(n, primals, kept, cotangent, varies):
      ...     return (n * kept * cotangent,)
      >>> by_hand = with_backward(
      ...     power, forward=forward, backward=backward, reference=power
      ... )
      >>> x = jnp.array(2.0)
      >>> float(jax.grad(by_hand, argnums=1)(3, x))
      12.0
      >>> float(jax.jacfwd(by_hand, argnums=1)(3, x))  # an error of jax.custom_vjp
      12.0
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def function(static: Any, *primals: Any) -> Any:
        return value(static, *primals)

    def rule(static: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
        results, kept = forward(static, *primals)
        leaves, structure = jax.tree.flatten(tangents)
        varies = tuple(map(_varies, leaves))
        like, structure_of_results = jax.tree.flatten(results)
        arrays, structure_of_kept = jax.tree.flatten((primals, kept))
        linear = _Tangents(
            static,
            reference,
            backward,
            varies,
            structure,
            structure_of_kept,
            structure_of_results,
        )
        varying = [x for x, v in zip(leaves, varies, strict=True) if v]
        found = linear_call(linear, arrays, varying, like)
        return results, structure_of_results.unflatten(found)

    function.defjvp(rule, symbolic_zeros=True)
    return function


@dataclasses.dataclass(frozen=True)
class _Tangents:
    """From the tangents of the primals to those of the results: a `LinearMap`."""

    static: Any
    reference: Callable[..., Any]
    backward: Callable[..., Any]
    varies: tuple[bool, ...]  # the leaves of the primals that have a tangent
    structure: Any
    structure_of_kept: Any
    structure_of_results: Any

    def apply(self, kept: Sequence[Array], tangents: Sequence[Array]) -> list[Array]:
        primals, _ = self.structure_of_kept.unflatten(kept)
        _, found = jvp_of(
            functools.partial(self.reference, self.static),
            primals,
            tangents,
            self.varies,
        )
        return jax.tree.leaves(found)

    def transpose(
        self, kept: Sequence[Array], cotangents: Sequence[Array | None]
    ) -> list[Array]:
        primals, kept = self.structure_of_kept.unflatten(kept)
        given = self.structure_of_results.unflatten(cotangents)
        varies = self.structure.unflatten(self.varies)
        found = self.backward(self.static, primals, kept, given, varies)
        leaves = self.structure.flatten_up_to(found)
        return [x for x, v in zip(leaves, self.varies, strict=True) if v]


def with_derivative_of(
    reference: Callable[..., Any], fast: Callable[..., Any]
) -> Callable[..., Any]:
    """`fast`, a call that JAX cannot differentiate, with the derivative of `reference`.

    Args:
      reference: computes the same, in JAX.
      fast: gives the values.

    Example:
      >>> def fast(x):
      ...     return jax.pure_callback(np.tanh, x, x)
      >>> tanh = with_derivative_of(jnp.tanh, fast)
      >>> float(jax.grad(tanh)(jnp.zeros(())))
      1.0
    """

    @jax.custom_jvp
    def function(*arguments: Any) -> Any:
        return fast(*arguments)

    def rule(arguments: Any, tangents: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(tangents)
        varies = tuple(map(_varies, leaves))
        varying = [x for x, v in zip(leaves, varies, strict=True) if v]

        def alike(*arguments: Any) -> Any:
            return as_varying(reference(*arguments), like=arguments)

        _, found = jvp_of(alike, arguments, varying, varies)
        return function(*arguments), found

    function.defjvp(rule, symbolic_zeros=True)
    return function


def jvp_of(
    function: Callable[..., Any],
    primals: Any,
    tangents: Sequence[Array],
    varies: Sequence[bool],
) -> tuple[Any, Any]:
    """`jax.jvp` with tangents for those leaves of the primals alone that vary."""
    leaves, structure = jax.tree.flatten(primals)

    def run(*varying: Array) -> Any:
        given = iter(varying)
        pairs = zip(leaves, varies, strict=True)
        return function(
            *structure.unflatten([next(given) if v else x for x, v in pairs])
        )

    varying = [x for x, v in zip(leaves, varies, strict=True) if v]
    return jax.jvp(run, varying, list(tangents))


def _varies(tangent: Any) -> bool:
    known_zero = isinstance(tangent, SymbolicZero)
    return not known_zero and tangent.dtype != jax.dtypes.float0


def or_zeros(like: Array, cotangent: Array | None) -> Array:
    """Zeros where None stands for a cotangent known to be zero."""
    return jnp.zeros_like(like) if cotangent is None else cotangent
