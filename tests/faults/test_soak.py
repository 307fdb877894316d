"""G7. A short soak; `make soak` runs 20,000 cycles."""

from __future__ import annotations

import pytest

from tests.faults.soak import soak


@pytest.mark.row("G7", "H20")
@pytest.mark.usefixtures("unclosed_connections")
def test_random_faults_leave_nothing_behind(flavour: str) -> None:
    """Sessions over one client while the service fails at random: nothing runs on, and nothing grows."""
    before, after, failed = soak(flavour, 250, seed=7)
    assert failed > 10, "the service did not fail"
    assert after.is_flat_since(before), (before, after)
