import pytest
import torch

from potluck.kernels.gpu.graphs import Buffer, CapturedStep, CudaCapture, bucket_for, buckets_up_to, call_again


class FakeCapture:
    """Counts captures."""

    def __init__(self):
        self.sizes = []

    def __call__(self, step):
        replay, out = call_again(step)
        self.sizes.append(len(out))
        return replay, out


def step(inputs, choices=()):
    return inputs["x"].sum(-1) + inputs["slot"] * 100 + sum(choices)


def made(most=6):
    buffers = {"x": Buffer(torch.empty(most, 3), 0.0), "slot": Buffer(torch.empty(most, dtype=torch.int64), -1)}
    capture = FakeCapture()
    return CapturedStep(step, buffers, capture), buffers, capture


def inputs_of(rows):
    return {"x": torch.randn(rows, 3), "slot": torch.arange(rows)}


def test_buckets_are_powers_of_two_and_the_largest_batch():
    assert buckets_up_to(1) == (1,)
    assert buckets_up_to(8) == (1, 2, 4, 8)
    assert buckets_up_to(12) == (1, 2, 4, 8, 12)
    with pytest.raises(ValueError, match="0 rows"):
        buckets_up_to(0)


def test_a_batch_takes_the_smallest_bucket_that_holds_it():
    assert [bucket_for(rows, (1, 2, 4, 8, 12)) for rows in (1, 2, 3, 4, 5, 8, 9, 12)] == [1, 2, 4, 4, 8, 8, 12, 12]
    for rows in (0, 13):
        with pytest.raises(ValueError, match="captured are 1 to 12"):
            bucket_for(rows, (1, 2, 4, 8, 12))


def test_replays_compute_the_rows_they_are_given_and_no_size_is_captured_twice():
    captured, buffers, capture = made()
    for rows in (3, 1, 5, 4, 3, 6, 2):
        inputs = inputs_of(rows)
        torch.testing.assert_close(captured(inputs), step(inputs))
    assert capture.sizes == [4, 1, 6, 2]
    assert buffers["slot"].rows[:2].tolist() == [0, 1]


def test_rows_that_fill_a_bucket_up_hold_the_filler():
    captured, buffers, _ = made()
    assert buffers["slot"].rows.tolist() == [-1] * 6
    captured(inputs_of(4))
    captured(inputs_of(3))
    assert buffers["slot"].rows.tolist() == [0, 1, 2, -1, -1, -1]
    assert (buffers["x"].rows[3] == 0).all()


def test_what_a_step_chooses_is_captured_anew():
    captured, _, capture = made()
    for choices in ((), (7,), (), (7,), (8,)):
        inputs = inputs_of(3)
        torch.testing.assert_close(captured(inputs, choices), step(inputs, choices))
    assert capture.sizes == [4, 4, 4]


def test_a_ragged_input_leaves_what_stands_behind_it():
    buffers = {"table": Buffer(torch.empty(2, 4, dtype=torch.int64), 0, ragged=True)}
    captured = CapturedStep(lambda inputs, _: inputs["table"][:, 0] * 2, buffers, call_again)
    assert captured({"table": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])}).tolist() == [2, 10]
    assert captured({"table": torch.tensor([[9, 9], [8, 8]])}).tolist() == [18, 16]
    assert buffers["table"].rows.tolist() == [[9, 9, 3, 4], [8, 8, 7, 8]]
    assert captured({"table": torch.tensor([[4]])}).tolist() == [8]
    with pytest.raises(ValueError, match="not"):
        captured({"table": torch.ones(1, 5, dtype=torch.int64)})


def test_prepare_captures_the_largest_first():
    captured, _, capture = made()
    captured.prepare()
    captured(inputs_of(3))
    assert capture.sizes == [6, 4, 2, 1]


def test_wrong_inputs_are_refused():
    captured, _, _ = made()
    with pytest.raises(ValueError, match="buffers"):
        captured({"x": torch.ones(1, 3)})
    with pytest.raises(ValueError, match="not"):
        captured({"x": torch.ones(2, 3), "slot": torch.ones(1, dtype=torch.int64)})
    with pytest.raises(ValueError, match="7 rows"):
        captured(inputs_of(7))
    with pytest.raises(ValueError, match="rows"):
        CapturedStep(step, {"x": Buffer(torch.ones(2), 0), "y": Buffer(torch.ones(3), 0)}, FakeCapture())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graphs_compute_the_same():
    captured = CapturedStep(
        step,
        {"x": Buffer(torch.empty(6, 3), 0.0), "slot": Buffer(torch.empty(6, dtype=torch.int64), -1)},
        CudaCapture(),
    )
    captured.prepare()
    for rows in (3, 1, 6, 3):
        inputs = inputs_of(rows)
        torch.testing.assert_close(captured(inputs), step(inputs))
