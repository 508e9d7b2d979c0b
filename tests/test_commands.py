"""Does every command that a page names exist, with its targets, scripts and options?

They are not run: most train for minutes, and some install. `make --dry-run` says what
they would run.
"""

import ast
import functools
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import tomllib

import pytest
from pages import blocks

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
PACKAGES = {  # those that the library or an extra of it requires
    re.match(r"[\w-]+", requirement)[0]
    for listed in (DEPENDENCIES, *EXTRAS.values())
    for requirement in listed
}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        ROOT / "experiments" / "README.md",
    )
}
INLINE = re.compile(r"`((?:make|pip install|(?:\.venv/bin/)?python[\d.]*) [^`…]+)`")


def commands(page):
    """Those of its blocks, and those within its sentences."""
    text = re.sub(r"\\\n", " ", "".join(blocks(page, "sh")))
    listed = [line for line in text.splitlines() if line.split("#")[0].strip()]
    return listed + [found.replace("\n", " ") for found in INLINE.findall(page)]


def check(command):
    """Raises where what a command names is not there, or what it is is not known."""
    words = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    match words:
        case ["make", *arguments]:
            for script, options in runs(tuple(arguments)):
                check_script(script, options)
        case ["pip", "install", *packages]:
            for name, extras in re.findall(
                r"([^[ ]+)(?:\[(.+?)\])?", " ".join(packages)
            ):
                assert name in {".", *PACKAGES}, command
                assert name != "." or set(extras.split(",")) <= {"", *EXTRAS}, command
        case [python, "-m", module, *_] if "python" in python:
            assert importlib.util.find_spec(module), command
        case [python, script, *options] if "python" in python:
            check_script(script, options)
        case _:
            raise AssertionError(f"{command}: neither make, nor pip, nor Python.")


@functools.cache
def runs(arguments):
    """The scripts that `make` would run, with what it would hand to them."""
    alone = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    found = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT,
        env=alone | {"MAKELEVEL": "0"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    scripts = re.findall(r"bin/python ([\w/]+\.py)(.*)", found.stdout)
    return [(script, shlex.split(options)) for script, options in scripts]


def check_script(script, options):
    assert (ROOT / script).exists(), script
    taken = options_of(script)
    for option in options:
        if option.startswith("--"):
            assert option.split("=")[0] in taken, f"{script} takes no {option}"


@functools.cache
def options_of(script):
    """The options of argparse, and the arguments of a `main` that tyro calls."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    taken = {"--help"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).startswith("--"):
            taken.add(node.value)
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            taken |= {f"--{a.arg.replace('_', '-')}" for a in node.args.kwonlyargs}
    return taken


@pytest.mark.parametrize("name", [name for name in PAGES if commands(PAGES[name])])
def test_commands_of_a_page_exist(name):
    for command in commands(PAGES[name]):
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "make tea",
        "make run teapot=1 tea",
        "pip install '.[tea]'",
        "pip install jax tea",
        "python -m jaxrnn_tea",
        "python experiments/tea.py",
        "python experiments/many_processes.py --tea 2",
        "python experiments/benchmarks/speed.py --tea",
        "tea",
    ],
)
def test_a_command_that_is_not_there_is_found(command):
    with pytest.raises(AssertionError):
        check(command)


def test_a_block_is_left_out_for_a_reason_only():
    page = "<!-- not run: {} -->\n```sh\ntea --hot\n```\nThen `make tea` and `make`."
    assert commands(page.format("no machine here makes it")) == ["make tea"]
    assert commands(page.format("")) == ["tea --hot", "make tea"]
