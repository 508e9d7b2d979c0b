"""How does the API reference read? By public names, in the words of the source."""

import inspect
import re
from typing import Any

import public_names
from docstrings import AND, Link, as_fields, linked, to_rst
from docutils import nodes
from docutils.statemachine import StringList
from signatures import signature
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

# Where code is a link already: in links, and in docstrings.
LINKED = (nodes.reference, addnodes.pending_xref, addnodes.desc)
# From the source back to the entry: viewcode looks for it under the path of the source.
BACK = re.compile(r'<a class="viewcode-back"[^>]*>.*?</a>')


def is_ours(value: Any) -> bool:
    return (getattr(value, "__module__", "") or "").split(".")[0] == "jaxrnn"


def linker(paths: dict[str, str], room: str, own: str) -> Link:
    """A role for what is a public name, seen from a module; not for one's own name.

    (`Tokenizer` in the docstring of our `Tokenizer` is that of Keras.)
    """

    def link(code: str) -> str | None:
        name = called(code)
        path = paths.get(name) or paths.get(f"{room}.{name}")
        return f":py:obj:`{code} <{path}>`" if path and path != own else None

    return link


def called(code: str) -> str:
    """The name in `Deer(iterations=20)` or `Deer()`."""
    return re.sub(r"\(.*\)$", "", code, flags=re.S)


class Files(SphinxDirective):
    """Every file of the package with the question that its first line answers."""

    def run(self) -> list[nodes.Node]:
        listed = nodes.definition_list()
        for path, summary in public_names.summaries():
            file, text = nodes.term(), nodes.paragraph()
            file += nodes.literal(text=path)
            self.state.nested_parse(
                StringList([linked([summary], lambda _: None)[0]]), 0, text
            )
            listed += nodes.definition_list_item(
                "", file, nodes.definition("", *text.children)
            )
        return [listed]


def _within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


def _reference(code: nodes.literal, path: str, page: str) -> addnodes.pending_xref:
    """A link from code on a page of prose to the entry of what it names."""
    reference = addnodes.pending_xref(
        "", refdomain="py", reftype="obj", reftarget=path, refdoc=page, refwarn=True
    )
    reference += code.deepcopy()
    return reference


def setup(app: Any) -> dict[str, bool]:
    paths = public_names.public_paths()

    def docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: Any):
        room = name.rsplit(".", 1)[0]
        if what == "module":
            room = name
        elif what in ("method", "property", "attribute"):
            room = room.rsplit(".", 1)[0]
        lines[:] = as_fields(to_rst(list(lines), linker(paths, room, name)))

    def signed(app: Any, what: str, name: str, value: Any, options: Any, *_: Any):
        return signature(value) if callable(value) else None

    def skipped(app: Any, what: str, name: str, value: Any, skip: bool, options: Any):
        if what == "module" or name in public_names.BETWEEN_LAYERS:
            return True
        if name.startswith("_") and name != "__call__":
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
        for field in doctree.findall(nodes.field_name):
            if field.astext() == "Variables":
                field[0] = nodes.Text("Attributes")
        for several in doctree.findall(addnodes.literal_strong):  # see `as_fields`
            several[0] = nodes.Text(several.astext().replace(AND, ", "))
        for code in list(doctree.findall(nodes.literal)):
            name = called(code.astext())
            full = name.startswith("jaxrnn.") or name[:1].isupper() or "_" in name
            if name in paths and full and not _within(code, LINKED):
                code.replace_self(_reference(code, paths[name], app.env.docname))

    def shown(app: Any, page: str, template: str, context: dict[str, Any], _: Any):
        if page.startswith("_modules/"):
            context["body"] = BACK.sub("", context["body"])

    app.add_directive("files", Files)
    app.connect("html-page-context", shown)
    app.connect("doctree-read", read)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # then napoleon
    app.connect("autodoc-process-signature", signed)
    app.connect("autodoc-skip-member", skipped, priority=400)
    app.connect("missing-reference", resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
