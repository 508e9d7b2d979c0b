"""How does the API reference read? By public names, in the words of the source."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from docstrings import as_fields, to_rst
from docutils import nodes
from public_names import public_paths
from signatures import signature
from sphinx import addnodes

# What layers ask of layers around them, and a reader never does.
BETWEEN_LAYERS = {"run", "call_options", "has_noise", "check", "specs"} | {
    "make_noisy_cell"
}


# From the source back to the entry: viewcode looks for it under the path of the source.
BACK = re.compile(r'<a class="viewcode-back"[^>]*>.*?</a>')


def is_ours(value: Any) -> bool:
    return (getattr(value, "__module__", "") or "").split(".")[0] == "jaxrnn"


def linker(paths: dict[str, str], room: str) -> Callable[[str], str | None]:
    """A role for what is a public name, seen from a module."""

    def link(code: str) -> str | None:
        name = called(code)
        path = paths.get(name) or paths.get(f"{room}.{name}")
        return f":py:obj:`{code} <{path}>`" if path else None

    return link


def called(code: str) -> str:
    """The name in `Deer(iterations=20)` or `Deer()`."""
    return re.sub(r"\(.*\)$", "", code, flags=re.S)


def _reference(code: nodes.literal, path: str, page: str) -> addnodes.pending_xref:
    """A link from code on a page of prose to the entry of what it names."""
    reference = addnodes.pending_xref(
        "", refdomain="py", reftype="obj", reftarget=path, refdoc=page, refwarn=True
    )
    reference += code.deepcopy()
    return reference


def setup(app: Any) -> dict[str, bool]:
    paths = public_paths()

    def docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: Any):
        room = name.rsplit(".", 1)[0]
        if what == "module":
            room = name
        elif what in ("method", "property", "attribute"):
            room = room.rsplit(".", 1)[0]
        lines[:] = as_fields(to_rst(list(lines), linker(paths, room)))

    def signed(app: Any, what: str, name: str, value: Any, options: Any, *_: Any):
        return signature(value) if callable(value) else None

    def skipped(app: Any, what: str, name: str, value: Any, skip: bool, options: Any):
        if what == "module" or name in BETWEEN_LAYERS:
            return True
        method = value.fget if isinstance(value, property) else value
        method = getattr(method, "__func__", method)
        return not (inspect.isfunction(method) and is_ours(method) and method.__doc__)

    def resolved(app: Any, env: Any, node: Any, contents: Any):
        path = paths.get(node["reftarget"])
        if node.get("refdomain") != "py" or path is None:
            return None
        domain = env.domains["py"]
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", path, node, contents
        )

    def read(app: Any, doctree: nodes.document):
        for shape in doctree.findall(addnodes.desc_sig_literal_string):
            shape[0] = nodes.Text(f'"{shape.astext()[1:-1]}"')
        for code in list(doctree.findall(nodes.literal)):
            name = called(code.astext())
            full = name.startswith("jaxrnn.") or name[:1].isupper()
            linked = isinstance(code.parent, nodes.reference | addnodes.pending_xref)
            if name in paths and full and not linked:
                code.replace_self(_reference(code, paths[name], app.env.docname))

    def shown(app: Any, page: str, template: str, context: dict[str, Any], _: Any):
        if page.startswith("_modules/"):
            context["body"] = BACK.sub("", context["body"])

    app.connect("html-page-context", shown)
    app.connect("doctree-read", read)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # then napoleon
    app.connect("autodoc-process-signature", signed)
    app.connect("autodoc-skip-member", skipped, priority=400)
    app.connect("missing-reference", resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
