"""Does training that is killed go on as if nothing had happened? Real processes die."""

import pytest
import survival


@pytest.mark.slow
@pytest.mark.parametrize("kind", survival.KINDS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(kind):
    """Three kills each; `make survival` does it 50 times."""
    record = survival.survive(kind, seed=survival.KINDS.index(kind))
    assert record["kills"]
    assert record["sha256"] == survival.undisturbed(kind)
