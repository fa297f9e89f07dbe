from potluck.coordinator.attempts import Attempts


def test_plans_that_failed_in_a_row_are_followed_by_a_pause_and_one_try():
    attempts = Attempts(3, 30.0)
    assert [attempts.failed(False, now) for now in (1.0, 2.0, 3.0)] == [True] * 3
    assert not attempts.due(1e9), "as long as plans are made at once nothing is waited for"
    assert not attempts.failed(False, 4.0)
    assert (attempts.due(33.9), attempts.due(34.0)) == (False, True)
    assert attempts.failed(False, 34.0), "the try after the pause"
    assert not attempts.due(1e9)
    assert not attempts.failed(False, 35.0)
    assert attempts.due(65.0)


def test_a_plan_that_served_starts_the_count_anew():
    attempts = Attempts(2, 30.0)
    assert [attempts.failed(served, 1.0) for served in (False, False, True, False)] == [True] * 4
    assert not attempts.failed(False, 1.0)
