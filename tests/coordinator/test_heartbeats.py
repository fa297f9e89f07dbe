from potluck.coordinator.heartbeats import Heartbeats


def test_who_is_silent_the_longest():
    beats = Heartbeats(["a", "b", "c"], 100.0)
    assert beats.silent(10.0, 110.0) is None
    beats.heard(["a", "c"], 105.0)
    assert beats.silent(10.0, 110.5) == "b"
    beats.heard(["b", "c"], 112.0)
    assert beats.silent(10.0, 115.5) == "a"
    assert beats.silent(10.0, 115.0) is None
