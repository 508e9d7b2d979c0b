"""Does a rule by name reach the parameters whose path ends in it, and no other?"""

import optax
import pytest

from jaxrnn import constraints, regularizers
from jaxrnn.rules import rules_by_leaf

SGD = optax.sgd(0.1)
PARAMS = {
    "head": {"bias": 0.0, "kernel": 0.0},
    "recurrent": {"kernel": 0.0, "recurrent_kernel": 0.0},
}


@pytest.mark.parametrize(
    ("names", "want"),
    [
        ([], ["", "", "", ""]),
        (["kernel"], ["", "k", "k", ""]),  # and not recurrent_kernel
        (["recurrent/kernel"], ["", "", "r", ""]),
        (["recurrent/kernel", "kernel", "bias"], ["b", "k", "rk", ""]),
    ],
)
def test_a_rule_goes_by_the_end_of_the_path_in_the_order_given(names, want):
    found = rules_by_leaf(PARAMS, {name: name[0] for name in names})
    assert ["".join(rules) for rules in found] == want


@pytest.mark.parametrize("name", ["ernel", "recurrent", "kernel/head", ""])
def test_a_name_that_fits_nothing_is_refused(name):
    message = rf"got '{name}'; the parameters are .*'recurrent/kernel'"
    with pytest.raises(ValueError, match=message):
        rules_by_leaf(PARAMS, {"kernel": 1, name: 2})
    with pytest.raises(ValueError, match=message):
        regularizers.penalty(PARAMS, {name: regularizers.l2(1.0)})
    with pytest.raises(ValueError, match=message):
        constraints.constrained(SGD, {name: constraints.non_neg}).init(PARAMS)
