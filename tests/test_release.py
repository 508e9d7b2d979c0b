"""Do version, changelog and citation agree, and do both CIs run the same targets?"""

import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def disagreements(version, citation, changelog):
    """By Keep a Changelog: `[Unreleased]`, then `[version] - date` from the newest on.

    On the way to a version, it ends in `.dev0`, and nothing gives it a date.
    """
    cited = dict(re.findall(r"^(version|date-released): (\S+)$", citation, re.M))
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.M)
    newest = dict([*headings[1:2], ("Unreleased", "")])
    if headings[:1] != [("Unreleased", "")]:
        yield "The changelog must begin with [Unreleased]."
    if cited.get("version") != version:
        yield f"CITATION.cff cites {cited.get('version')}."
    if version.endswith(".dev0"):
        if version.removesuffix(".dev0") in dict(headings) or "date-released" in cited:
            yield f"{version} is not released, and has a section or a date."
    elif not newest.get(version) or newest[version] != cited.get("date-released"):
        yield f"{version} needs the newest section, and the date of it in CITATION.cff."


def test_version_changelog_and_citation_agree():
    assert list(disagreements(VERSION, CITATION, CHANGELOG)) == []
    assert (".dev0" in VERSION) == (f"{VERSION} until then" in CHANGELOG)


UNRELEASED, RELEASED = (
    "## [Unreleased]\n",
    "## [Unreleased]\n\n## [1.0.0] - 2031-01-02\n",
)


@pytest.mark.parametrize(
    ("version", "citation", "changelog", "fault"),
    [
        ("1.0.0", "version: 1.0.0\ndate-released: 2031-01-02", RELEASED, None),
        ("1.1.0.dev0", "version: 1.1.0.dev0", RELEASED, None),
        ("1.0.0", "version: 1.0.0", RELEASED, "needs the newest section"),
        ("1.0.0", "version: 1.0.0", UNRELEASED, "needs the newest section"),
        ("1.0.0.dev0", "version: 1.0.0.dev0", RELEASED, "is not released"),
        ("1.0.0.dev0", "version: 1.0.0", UNRELEASED, "cites 1.0.0"),
        ("1.0.0.dev0", "version: 1.0.0.dev0", "## 1.0.0", "must begin with"),
    ],
)
def test_a_disagreement_is_found(version, citation, changelog, fault):
    found = list(disagreements(version, citation, changelog))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def targets(text):
    """Which targets of make are run, on which JAX; the path of Python is its own."""
    lines = re.findall(r"^(?:.*- run: )?make (.+)$", text, re.M)
    return [re.sub(r" PYTHON=\S+", "", line) for line in lines]


def test_the_workflow_runs_what_ci_runs():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    versions = re.findall(r'\{jax: "?([\w.]+)"?, python: "3.\d+"\}', workflow)
    *pinned, on_others = targets(workflow)
    others = [on_others.replace("${{ matrix.jax }}", version) for version in versions]
    assert targets((ROOT / ".ci/run").read_text(encoding="utf-8")) == pinned + others
    assert {"gpu-compiler", "onnx", "docs"} < set(pinned)
    assert "test-core JAX=0.11" in others
