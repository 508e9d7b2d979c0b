"""How is a signature shown? With the types and defaults that stand in the source.

What Python makes of them at run time is long: `Float[AnyArray, "time *batch"]` is a
union of classes of jaxtyping, a default function its address.
"""

import ast
import functools
import inspect
import textwrap
from typing import Any

import flax.linen as nn

OF_FLAX = ("parent", "name")  # every Linen module has these two fields


def signature(value: Any) -> tuple[str, str] | None:
    """The arguments in parentheses and the result of what can be called, as written.

    Returns:
      None where there is no source of ours to read them from.
    """
    if inspect.isclass(value):
        init = vars(value).get("__init__")
        written = getattr(init, "__code__", None) and _function(init)
        arguments = written.args if written else _fields(value)
        return (f"({_without_self(arguments)})", "") if arguments else None
    function = _function(value)
    if function is None:
        return None
    returns = function.returns
    if isinstance(returns, ast.Constant) and isinstance(returns.value, str):
        returns = ast.parse(returns.value, mode="eval").body  # a class within itself
    result = ast.unparse(returns) if returns else ""
    return f"({_without_self(function.args)})", result


def _function(value: Any) -> ast.FunctionDef | None:
    value = inspect.unwrap(value)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (
        OSError,
        TypeError,
    ):  # made at run time, as of a dataclass
        return None
    found = tree.body[0]
    return found if isinstance(found, ast.FunctionDef) else None


def _without_self(arguments: ast.arguments) -> str:
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    return ast.unparse(arguments)


def _fields(of: type) -> ast.arguments | None:
    """The arguments of a dataclass or a NamedTuple: its fields."""
    written = _written_fields(of)
    try:
        parameters = inspect.signature(of.__init__).parameters.values()
    except ValueError:
        return None
    if issubclass(of, tuple):
        parameters = inspect.signature(of).parameters.values()
    result = ast.arguments([], [], None, [], [], None, [])
    for parameter in parameters:
        field = written.get(parameter.name)
        if field is None or (issubclass(of, nn.Module) and parameter.name in OF_FLAX):
            continue
        argument = ast.arg(parameter.name, _type_of(field))
        has_default = parameter.default is not parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY:
            result.kwonlyargs.append(argument)
            result.kw_defaults.append(_default_of(field) if has_default else None)
        else:
            result.args.append(argument)
            result.defaults += [_default_of(field)] if has_default else []
    return result if result.args or result.kwonlyargs else None


def _type_of(field: ast.AnnAssign) -> ast.expr:
    """Its annotation, without the `InitVar` around it."""
    annotation = field.annotation
    if isinstance(annotation, ast.Subscript) and "InitVar" in ast.dump(
        annotation.value
    ):
        return annotation.slice
    return annotation


def _default_of(field: ast.AnnAssign) -> ast.expr:
    """The value it starts at, were it made by a function for every object."""
    value = field.value or ast.Constant(None)
    if isinstance(value, ast.Call):
        given = {k.arg: k.value for k in value.keywords}
        if "default_factory" in given:
            return ast.Call(given["default_factory"], [], [])
        return given.get("default", value)
    return value


@functools.cache
def _written_fields(of: type) -> dict[str, ast.AnnAssign]:
    found: dict[str, ast.AnnAssign] = {}
    for base in reversed(of.__mro__):
        if base.__module__.split(".")[0] != "jaxrnn":
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for statement in tree.body:
            if isinstance(statement, ast.AnnAssign):
                found[statement.target.id] = statement
    return found
