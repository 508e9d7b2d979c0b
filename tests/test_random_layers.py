"""Does a layer of any options give what loops of NumPy give?"""

import jax
import pytest
import random_layers


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block", range(4))
def test_a_layer_of_any_options(block):
    """100 of them; `python tests/random_layers.py 3000` draws more."""
    for seed in range(25 * block, 25 * (block + 1)):
        random_layers.check(seed)
    jax.clear_caches()
