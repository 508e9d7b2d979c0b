"""Is the site complete, and does every block of code on it run?

`make docs` builds it; here are its pages, and what reads docstrings and source for it.
"""

import ast
import builtins
import doctest
import importlib
import inspect
import os
import pathlib
import re
import runpy
import typing

import built_site
import docstrings
import jax
import jaxtyping
import public_names
import pytest
import signatures
from pages import blocks

import jaxrnn
import jaxrnn.nnx

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
API = {name: text for name, text in PAGES.items() if name.startswith("api/")}
RUN = {name: list(blocks(text, "python")) for name, text in PAGES.items()}
RUN = {name: found for name, found in RUN.items() if found}


@pytest.fixture
def as_users(monkeypatch):
    """Promotes dtypes and ranks as JAX does where nobody says otherwise.

    Nor are annotations checked, which say `int` where `jax.export` has an open size.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def needs_reviews(name):
    return "load_imdb(" in "".join(RUN[name])


@pytest.mark.slow  # every page compiles programs
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.real_data] if needs_reviews(name) else [])
        for name in RUN
    ],
)
def test_code_of_a_page_runs(name, as_users, tmp_path, monkeypatch):
    if needs_reviews(name) and "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("TFDS_DATA_DIR is not set")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, code in enumerate(RUN[name], start=1):
        where = f"{name}, block {number}"
        if not code.startswith(">>>"):
            exec(compile(code, where, "exec"), names)
            continue
        output = []
        example = doctest.DocTestParser().get_doctest(code, names, where, None, None)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(example, out=output.append, clear_globs=False)
        names |= example.globs
        assert runner.failures == 0, "".join(output)


def test_a_block_is_left_out_for_a_reason_only():
    page = "<!-- not run: {} -->\n```python\nfly()\n```\n"
    assert list(blocks(page.format("no machine here can fly"), "python")) == []
    assert list(blocks(page.format(""), "python")) == ["fly()\n"]


def documented(kinds=("autofunction", "autoclass", "autoexception", "py:data")):
    """The paths that the pages of the API have entries for, in their order."""
    for text in API.values():
        room = ""
        directive = re.compile(r"^\.\. ([\w:]+):: (\S+)((?:\n {8,}\w+)*)", re.M)
        for kind, first, more in directive.findall(text):
            if kind == "currentmodule":
                room = first
            elif kind in kinds:
                for name in (first, *more.split()):
                    yield name if name.startswith("jaxrnn.") else f"{room}.{name}"


def found_at(path):
    room, name = path.rsplit(".", 1)
    return getattr(public_names.module(room), name)


def test_every_public_name_has_one_entry():
    paths = list(documented())
    assert len(paths) == len(set(paths)) > 150
    entries = {id(found_at(path)) for path in paths}
    assert len(entries) == len(paths)
    types = set(public_names.TYPES.values())
    for room in public_names.ROOMS:
        for name, value in public_names.names(public_names.module(room)).items():
            assert id(value) in entries or f"{room}.{name}" in types, f"{room}.{name}"


IMPORT = re.compile(r"^(?:>>> )?from (jaxrnn[\w.]*) import (.+)$", re.M)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def imported(text):
    """What a page imports from the package; of a module, what it takes out of it."""
    for room, listed in IMPORT.findall(text):
        for name, alias in re.findall(r"(\w+)(?: as (\w+))?", listed):
            value = public_names.module(room) if room == "jaxrnn" else None
            value = getattr(value or importlib.import_module(room), name)
            if not inspect.ismodule(value):
                yield f"{room}.{name}", value
                continue
            taken = re.findall(rf"(?<![\w.`]){alias or name}\.([a-z_]\w*)", text)
            for attribute in taken:
                yield f"{value.__name__}.{attribute}", getattr(value, attribute)


def test_what_a_page_imports_has_an_entry():
    entries = {id(found_at(path)) for path in documented()}
    found = {}
    for text in (*PAGES.values(), CONTRIBUTING):
        found |= dict(imported(text))
    assert {"jaxrnn.solvers.base.hold", "jaxrnn.cells.ops.as_row"} < set(found)
    for path, value in found.items():
        assert id(value) in entries, path


def test_what_contributors_are_sent_to_has_an_entry():
    """A function or class of the package that CONTRIBUTING.md names in backticks."""
    names = set(re.findall(r"`(?:\w+\.)*([a-zA-Z]\w+)`", CONTRIBUTING))
    entries = {path.rsplit(".", 1)[-1] for path in documented()}
    ours = {
        name
        for path in (ROOT / "jaxrnn").rglob("*.py")
        for name in re.findall(
            r"^(?:def|class) ([a-zA-Z]\w+)", path.read_text(encoding="utf-8"), re.M
        )
    }
    sent_to = names & ours - {"Kernel"}  # which is printed, and called by `Fused` alone
    assert {"with_backward", "here_or_there", "Solver"} <= sent_to <= entries


def test_every_module_that_is_handed_on_is_a_room():
    handed_on = re.findall(
        r"^from \S+ import (\w+) as \1$", inspect.getsource(jaxrnn), re.M
    )
    modules = {f"jaxrnn.{n}" for n in handed_on if inspect.ismodule(getattr(jaxrnn, n))}
    assert {"jaxrnn.data", "jaxrnn.logs"} < modules < set(public_names.ROOMS)


def test_types_are_those_of_the_source():
    lines = {
        line.split("  #")[0]
        for path in (ROOT / "jaxrnn").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    types = re.findall(
        r"^\.\. py:type:: (\S+)\n   :canonical: (.+)$", API["api/types.md"], re.M
    )
    assert {name for name, _ in types} > set(public_names.TYPES.values())
    for name, written in types:
        assert f"{name.rsplit('.', 1)[-1]} = {written}" in lines, name


def as_rst(docstring, **links):
    rst = docstrings.to_rst(inspect.cleandoc(docstring).splitlines(), links.get)
    return list(docstrings.as_fields(rst))


def test_equations_examples_and_names_of_a_docstring_are_told_apart():
    found = as_rst(
        """Runs `cell` over `*batch`, see `rnn` and name_.

            h' = f(h, x)    h | x

        Both of `f(a,
        b)` and so on.
          >>> 1 * 2
          2

        Args:
          a, b: two (*batch,) arrays.

            c = a * b
          d: one.

        Returns:
          The pair: a, b.

        Raises:
          TypeError, ValueError: always.
        """,
        rnn=":py:obj:`rnn <jaxrnn.rnn>`",
    )
    assert found == [
        r"Runs ``cell`` over ``*batch``, see :py:obj:`rnn <jaxrnn.rnn>` and name\_.",
        "",
        ".. code-block:: text",
        "",
        "    h' = f(h, x)    h | x",
        "",
        "Both of ``f(a,",
        "b)`` and so on.",
        "",
        ">>> 1 * 2",
        "2",
        "",
        "Args:",
        "  a\u2063b: two (\\*batch,) arrays.",
        "",
        "  .. code-block:: text",
        "",
        "    c = a * b",
        "  d: one.",
        "",
        "",
        ":returns: The pair: a, b.",
        "",
        "Raises:",
        "  TypeError, ValueError: always.",
        "",
    ]


def test_signatures_are_those_of_the_source():
    arguments, result = signatures.signature(jaxrnn.lengths_to_mask)
    assert arguments == "(lengths: Int[AnyArray, '*batch'], time: int)"
    assert result == "Bool[Array, 'time *batch']"
    assert signatures.signature(jaxrnn.Scan)[0] == (
        "(unroll: int=1, project_first: bool=False)"
    )
    assert signatures.signature(jaxrnn.Steps.reversed) == ("()", "Steps")
    of_linen, _ = signatures.signature(jaxrnn.GRU)
    assert "param_dtype: Any=jnp.float32" in of_linen
    assert "parent" not in of_linen
    of_nnx, _ = signatures.signature(jaxrnn.nnx.GRU)
    assert of_nnx.startswith("(in_features: int, features: int, *, ")
    assert "rngs: nnx.Rngs" in of_nnx
    assert signatures.signature(jaxrnn.simple_rnn) is None


def named_in(signature):
    """The names that the types of a signature say: `Float`, `optax.Params`."""
    arguments, result = signature
    (function,) = ast.parse(f"def f{arguments} -> {result or None}: ...").body
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg) and argument.annotation:
            yield from names_of(argument.annotation)
    yield from names_of(function.returns)


def names_of(annotation):
    if isinstance(annotation, ast.Name | ast.Attribute):
        yield ast.unparse(annotation)
    else:
        for part in ast.iter_child_nodes(annotation):
            yield from names_of(part)


def test_every_type_of_a_signature_has_an_entry_or_is_known_from_elsewhere():
    """What Sphinx finds no entry for, and conf.py no library, fails `make docs`."""
    conf = runpy.run_path(str(DOCS / "conf.py"))
    elsewhere = [pattern for _, pattern in conf["nitpick_ignore_regex"]]
    known = {*dir(builtins), *typing.__all__, *public_names.public_paths()}
    known |= {path.rsplit(".", 1)[-1] for path in known}
    known |= set(re.findall(r"^\.\. py:type:: (\S+)$", API["api/types.md"], re.M))
    named = set(from_jaxtyping())  # in whichever signature it stands tomorrow
    for path in documented(("autofunction", "autoclass", "autoexception")):
        entry = found_at(path)
        members = vars(entry).values() if inspect.isclass(entry) else ()
        shown = (x for x in members if inspect.isfunction(x) and is_shown(x))
        for value in (entry, *shown):
            named |= set(named_in(signatures.signature(value) or ("()", "")))
    assert {"Inexact", "UInt32", "Steps", "optax.GradientTransformation"} <= named
    for pattern in elsewhere:
        named = {name for name in named if not re.fullmatch(pattern, name)}
    assert named <= known


def is_shown(method):
    name, ours = method.__name__, method.__module__.startswith("jaxrnn.")
    public = name[0] != "_" and name not in public_names.BETWEEN_LAYERS
    return ours and method.__doc__ and (public or name == "__call__")


def from_jaxtyping():
    for path in (ROOT / "jaxrnn").rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if getattr(statement, "module", None) == "jaxtyping":
                yield from (imported.name for imported in statement.names)


def test_names_lead_to_their_entries():
    paths = public_names.public_paths()
    for name in ("rnn", "jaxrnn.rnn", "jaxrnn.recurrence.rnn"):
        assert paths[name] == "jaxrnn.rnn"
    assert paths["jaxrnn.interchange.BadFile"] == "jaxrnn.files.BadFile"
    assert paths["jaxrnn.linen.GRU"] == "jaxrnn.GRU" != paths["jaxrnn.nnx.GRU"]
    assert "step" not in paths
    assert set(paths.values()) <= {
        *documented(),
        *public_names.ROOMS,
        *public_names.TYPES.values(),
    }


def test_every_file_has_a_summary():
    for path, summary in public_names.summaries():
        assert 20 < len(summary) < 88, path
        assert summary[-1] in ".?", path


def test_a_site_with_a_dead_link_or_a_load_from_elsewhere_is_refused(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"></p><a href="b.html#y">b</a>')
    (tmp_path / "b.html").write_text('<p id="y"></p><a href="https://x.org">x</a>')
    assert list(built_site.faults(tmp_path)) == []
    (tmp_path / "b.html").write_text(
        '<a href="a.html#z">a</a><a href="c.html">c</a>'
        '<script src="https://cdn.org/x.js"></script>'
    )
    (tmp_path / "style.css").write_text("@import url('//fonts.org/a.css');")
    faults = "\n".join(built_site.faults(tmp_path))
    for fault in (
        "b.html#y: no such anchor",
        "a.html#z: no such",
        "c.html: no such file",
    ):
        assert fault in faults
    assert faults.count("https://cdn.org/x.js") == 1
    assert "style.css loads //fonts.org/a.css" in faults
    assert list(built_site.faults(tmp_path / "none")) == [
        f"{tmp_path}/none holds no page."
    ]
