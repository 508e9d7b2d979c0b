"""Is what the README says true?"""

import pathlib
import re

import pytest

import jaxrnn

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"<!-- example -->\n```python\n(.*?)```\n<!-- /example -->", README, re.S
)


@pytest.mark.parametrize("code", EXAMPLES, ids=["layer", "cell", "own cell"])
def test_example_runs(code):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    if "leaky" in names:
        assert names["outputs"].shape == (16, 100, 32)
        layer = names["layer"].clone(solver=jaxrnn.Scan())
        want = layer.apply(names["params"], names["jnp"].ones((16, 100, 8)))
        assert abs(names["outputs"] - want).max() < 1e-5
    elif "history" in names:
        assert names["history"]["val_loss"].shape == (50,)
        assert names["history"]["val_loss"][-1] < 0.13  # persistence has 0.17
    else:
        assert {n: g.shape for n, g in names["gradients"].items()} == {
            "kernel": (8, 64),
            "recurrent_kernel": (16, 64),
            "bias": (64,),
        }


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([\w-]+)", README):
        if target != "the":
            assert re.search(rf"^{target}:", makefile, re.M), target


def test_names_of_the_translation_table_exist():
    import jaxrnn

    table = README.split("## From Keras")[1].split("## Read the code")[0]
    ours = [line.split("|")[2] for line in table.splitlines() if line.startswith("| `")]
    assert len(ours) > 15
    for name in set(
        re.findall(
            r"\b(data|metrics|logs|interchange|regularizers|constraints)\.(\w+)",
            " ".join(ours),
        )
    ):
        assert hasattr(getattr(jaxrnn, name[0]), name[1]), name
    called = re.findall(r"(?<![\w.])([A-Za-z_]\w+)\(", " ".join(ours))
    known = {"print", "loss_fn", "state"}
    for name in set(called) - known:
        assert hasattr(jaxrnn, name), name


def test_results_and_speed_are_filled_in():
    for mark in ("results", "speed"):
        text = README.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
        assert text.count("|") > 20, mark
