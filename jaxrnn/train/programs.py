"""How long is a compiled program kept? As long as the functions it was made of.

`jax.jit` keeps what it compiled for a function that it was given as a static argument,
with all the arrays that this function holds on to, until thousands of others have come.
A notebook that defines a loss anew in every cell, or a search that makes an optimizer
for every trial, would fill its memory. Here a program goes when its functions go.
"""

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


Names = tuple[str, ...]


def program(
    *, owners: Names, static: Names = (), donate: Names = ()
) -> Callable[[Callable[P, R]], "Program[P, R]"]:
    """`jax.jit`, whose programs go with the functions among their arguments.

    Args:
      owners: names of arguments that are functions, or tuples of them as an Optax
        transformation is one.
      static: names of other arguments that are no arrays.
      donate: names of those whose memory is used again.
    """
    return lambda function: Program(function, owners, static, donate)


class Program(Generic[P, R]):
    """A function that is compiled for every other one of its owners."""

    def __init__(
        self,
        function: Callable[P, R],
        owners: Names,
        static: Names,
        donate: Names,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function: Any = function
        self._name, self._owners = self._function.__name__, owners
        self._signature = inspect.signature(function)
        self._options: Any = {"static_argnames": static, "donate_argnames": donate}
        self._kept: Any = weakref.WeakKeyDictionary()
        # Of what cannot be referred to weakly: a method, an object with slots.
        self._other = jax.jit(
            function, static_argnames=(*owners, *static), donate_argnames=donate
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        jitted, args_, kwargs_ = self._of(args, kwargs)
        return jitted(*args_, **kwargs_)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """As that of `jax.jit`."""
        jitted, args_, kwargs_ = self._of(args, kwargs)
        return jitted.lower(*args_, **kwargs_)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """As that of `jax.jit`."""
        jitted, args_, kwargs_ = self._of(args, kwargs)
        return jitted.trace(*args_, **kwargs_)

    def eval_shape(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """As that of `jax.jit`."""
        jitted, args_, kwargs_ = self._of(args, kwargs)
        return jitted.eval_shape(*args_, **kwargs_)

    def clear_cache(self) -> None:
        """Forgets every program."""
        for jitted in self._all():
            jitted.clear_cache()

    def _cache_size(self) -> int:
        return sum(jitted._cache_size() for jitted in self._all())

    def _all(self) -> list[Any]:
        return [*_leaves(self._kept), self._other]

    def _of(self, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The jitted function of these owners, and what it takes."""
        if not all(name in kwargs for name in self._owners):
            args, kwargs = (), self._signature.bind(*args, **kwargs).arguments
        owners = [kwargs[name] for name in self._owners]
        parts = [part for owner in owners for part in _parts(owner)]
        if any(isinstance(part, types.MethodType) for part in parts):
            return self._other, args, kwargs
        try:
            jitted = self._found(parts, owners)
        except TypeError:  # no weak reference to one of them, or no hash
            return self._other, args, kwargs
        rest = {name: x for name, x in kwargs.items() if name not in self._owners}
        return jitted, args, rest

    def _found(self, parts: list[Any], owners: list[Any]) -> Any:
        table = self._kept
        for part in parts[:-1]:
            if part not in table:
                table[part] = weakref.WeakKeyDictionary()
            table = table[part]
        if parts[-1] not in table:
            table[parts[-1]] = self._jitted(owners)
        return table[parts[-1]]

    def _jitted(self, owners: list[Any]) -> Any:
        """It holds on to none of the owners, so that they may go."""
        known = {
            name: _weakly(owner)
            for name, owner in zip(self._owners, owners, strict=True)
        }

        def function(*args: Any, **kwargs: Any) -> Any:
            of_owners = {name: owner() for name, owner in known.items()}
            return self._function(*args, **kwargs, **of_owners)

        function.__name__ = self._name  # in profiles and messages
        rest = [p for n, p in self._signature.parameters.items() if n not in known]
        of_names: Any = function
        of_names.__signature__ = inspect.Signature(rest)  # `jax.jit` looks names up
        return jax.jit(function, **self._options)


def _parts(owner: Any) -> tuple[Any, ...]:
    return owner if isinstance(owner, tuple) else (owner,)


def _weakly(owner: Any) -> Callable[[], Any]:
    """What gives the owner back while it is there."""
    if not isinstance(owner, tuple):
        return weakref.ref(owner)
    kind: Any = type(owner)
    references = [weakref.ref(part) for part in owner]
    return lambda: kind(*(reference() for reference in references))


def _leaves(table: Any) -> Iterator[Any]:
    for value in table.values():
        if isinstance(value, weakref.WeakKeyDictionary):
            yield from _leaves(value)
        else:
            yield value
