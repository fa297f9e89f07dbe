"""What bounds the scheduler is checked where it is said."""

import pytest

from potluck.coordinator.scheduler.limits import Limits


def test_a_step_goes_ahead_of_one_alone():
    assert Limits(8, 4, 32, 4, 1, ahead=True).ahead
    with pytest.raises(ValueError, match="not of 2"):
        Limits(8, 4, 32, 4, 2, ahead=True)
