import pytest
import torch

from potluck.kernels.gpu.lanes import CpuLane, lane_for
from potluck.kernels.gpu.stream_plan import LayerCosts, choose_held, pass_seconds, plan_stream
from potluck.kernels.gpu.streaming import LayerStream

SLOW_COPY, EVEN, FAST_COPY = LayerCosts(10.0, 1.0), LayerCosts(1.5, 1.0), LayerCosts(0.4, 1.0)
ALL_COSTS = [SLOW_COPY, EVEN, FAST_COPY]


class FakeLane:
    """Copies that happen as late as they may: when a slot is waited for. Notes every copy."""

    def __init__(self):
        self.slots, self.due, self.released, self.copies = {}, {}, set(), []

    def resident(self, layer):
        return torch.tensor([layer])

    def slot(self, slot):
        return self.slots[slot]

    def copy(self, layer, slot):
        assert slot not in self.slots or slot in self.released, "the slot is in use"
        self.due[slot] = layer
        self.copies.append((layer, slot))

    def wait(self, slot):
        self.slots[slot] = torch.tensor([self.due[slot]])
        self.released.discard(slot)

    def release(self, slot):
        self.released.add(slot)
        self.slots[slot] = torch.tensor([-1])


def simulated(plan, costs, passes=30):
    """Seconds of a pass, once going: one engine computes, one copies, each in order."""
    computed, copied, freed, copy, ends = 0.0, 0.0, [0.0] * plan.ring, 0, []
    for _ in range(passes):
        for layer in range(plan.layers):
            if layer in plan.streamed:
                assert plan.layer(copy) == layer
                slot = plan.slot(copy)
                copied = max(copied, freed[slot]) + costs.copy_seconds
                computed = max(computed, copied) + costs.compute_seconds
                freed[slot] = computed
                copy += 1
            else:
                computed += costs.compute_seconds
        ends.append(computed)
    return (ends[-1] - ends[passes // 2 - 1]) / (passes - passes // 2)


@pytest.mark.parametrize("costs", ALL_COSTS)
@pytest.mark.parametrize("layers", [1, 2, 7, 32])
def test_a_plan_holds_as_many_layers_as_it_was_given(layers, costs):
    for held in range(1, layers + 3):
        plan = plan_stream(layers, held, costs)
        assert len(plan.resident) + plan.ring == min(held, layers)
        assert sorted(plan.resident + plan.streamed) == list(range(layers))
        assert list(plan.streamed) == sorted(set(plan.streamed))


@pytest.mark.parametrize("costs", ALL_COSTS)
@pytest.mark.parametrize("layers", [2, 7, 32])
def test_a_pass_takes_what_is_predicted(layers, costs):
    for held in range(1, layers + 1):
        plan = plan_stream(layers, held, costs)
        predicted, found = pass_seconds(layers, held, costs), simulated(plan, costs)
        gaps = len(plan.streamed) * costs.compute_seconds
        assert predicted - 1e-6 <= found <= predicted + gaps + 1e-6, (held, plan)


def test_a_second_slot_is_held_where_computing_hides_a_copy():
    assert plan_stream(10, 4, FAST_COPY).ring == 2
    assert plan_stream(10, 4, SLOW_COPY).ring == 1
    assert plan_stream(10, 1, FAST_COPY).ring == 1
    assert plan_stream(10, 10, SLOW_COPY).streamed == ()


def test_as_few_layers_are_held_as_keep_a_pass_fast():
    assert choose_held(32, FAST_COPY, layer_bytes=100, free_bytes=10_000) == 2
    assert choose_held(32, EVEN, layer_bytes=100, free_bytes=10_000) == 13
    assert choose_held(32, SLOW_COPY, layer_bytes=100, free_bytes=2050) == 20
    assert choose_held(32, FAST_COPY, layer_bytes=100, free_bytes=199) == 1
    with pytest.raises(ValueError, match="99 are free"):
        choose_held(32, EVEN, layer_bytes=100, free_bytes=99)
    with pytest.raises(ValueError, match="0 of 3"):
        plan_stream(3, 0, EVEN)


@pytest.mark.parametrize("costs", ALL_COSTS)
@pytest.mark.parametrize("held", [1, 2, 3, 6, 7])
def test_every_layer_has_its_own_weights_and_no_slot_is_written_while_it_is_read(held, costs):
    lane = FakeLane()
    plan = plan_stream(7, held, costs)
    stream = LayerStream(plan, lane)
    for _ in range(3):
        for layer in range(7):
            with stream.layer(layer) as weights:
                assert weights.item() == layer
    assert len(lane.copies) == 3 * len(plan.streamed) + plan.ring


@pytest.mark.parametrize("costs", [SLOW_COPY, FAST_COPY])
@pytest.mark.parametrize("end", range(1, 7))
def test_after_a_pass_broken_off_the_next_has_the_right_weights(end, costs):
    stream = LayerStream(plan_stream(7, 3, costs), FakeLane())
    for layers in (range(end), range(7), range(7)):
        for layer in layers:
            with stream.layer(layer) as weights:
                assert weights.item() == layer


def test_an_error_while_a_layer_is_computed_frees_its_slot():
    stream = LayerStream(plan_stream(4, 1, EVEN), FakeLane())
    with pytest.raises(RuntimeError), stream.layer(0):
        raise RuntimeError
    with stream.layer(1) as weights:
        assert weights.item() == 1


@pytest.mark.parametrize("held", [1, 2, 3, 7])
def test_the_lane_without_cuda_counts_what_it_copies(held):
    host = [torch.full((8 + layer,), layer, dtype=torch.uint8) for layer in range(7)]
    plan = plan_stream(7, held, SLOW_COPY)
    lane = lane_for(plan, host, torch.device("cpu"))
    assert isinstance(lane, CpuLane)
    stream = LayerStream(plan, lane)
    for _ in range(2):
        for layer in range(7):
            with stream.layer(layer) as weights:
                assert (weights[: 8 + layer] == layer).all()
    brought = [*plan.streamed * 2, *plan.streamed[: plan.ring]]
    assert lane.copied_bytes == sum(8 + layer for layer in brought)
    assert (lane.stall_seconds > 0) == bool(plan.streamed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("held", [1, 2, 4, 7])
def test_cuda_copies_keep_the_order(held):
    host = [torch.full((1 << 22,), layer, dtype=torch.uint8, device="cpu").pin_memory() for layer in range(7)]
    plan = plan_stream(7, held, SLOW_COPY)
    lane = lane_for(plan, host, torch.device("cuda"))
    stream = LayerStream(plan, lane)
    sums = []
    for _ in range(4):
        for layer in range(7):
            with stream.layer(layer) as weights:
                sums.append(weights.double().mean())
    assert torch.stack(sums).tolist() == list(range(7)) * 4
    assert lane.copied_bytes == (4 * len(plan.streamed) + plan.ring) << 22
