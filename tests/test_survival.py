"""Does training that is killed go on as if nothing had happened? Real processes die."""

import pytest
import survival


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits():
    """Up to three kills; `make survival` does so with 18 runs, six of every kind."""
    record = survival.survive("memory", seed=0)
    assert record["kills"]
    assert record["sha256"] == survival.undisturbed("memory")
