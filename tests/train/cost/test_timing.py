"""The clock against times that the test itself spends, and the lines of timing.jsonl of a real run."""

import time

import pytest
import torch

from vmflearn.backbones.creation import create_backbone
from vmflearn.ssl import DINOHead, MultiCropNetwork
from vmflearn.train.cost import timing
from vmflearn.train.cost.counting import count_operations
from vmflearn.train.cost.timing import PARTS, Speedometer, StepClock, peak_memory
from vmflearn.train.methods.base import Work

CPU = torch.device("cpu")


@pytest.fixture
def host(monkeypatch):
    """A host whose clock goes on only where the test says so."""

    class Host:
        now = 100.0

        def spend(self, seconds):
            self.now += seconds

        def perf_counter(self):
            return self.now

    found = Host()
    monkeypatch.setattr(timing, "time", found)
    return found


def drive(clock, host, optimizer, steps, data, compute, rest):
    """Steps of known durations; the interval is read within the last, as the trainer does."""

    def loader():
        for i in range(steps):
            host.spend(data)
            yield i

    optimizer.work = lambda: host.spend(rest / 2)  # the optimiser's own time is rest
    for i in clock.steps(loader()):
        host.spend(compute)
        optimizer.step()
        host.spend(rest / 2)
        if i == steps - 1:
            return clock.read()
    raise AssertionError


class Optimizer(torch.optim.SGD):
    """One whose step takes as long as the test wants."""

    work = staticmethod(lambda: None)

    def step(self, closure=None):
        self.work()


def make_optimizer():
    return Optimizer([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_every_part_gets_the_time_that_was_spent_in_it(host):
    clock, optimizer = StepClock(CPU), make_optimizer()
    clock.watch(optimizer)
    found = drive(clock, host, optimizer, steps=4, data=1.0, compute=5.0, rest=2.0)
    assert found == pytest.approx(
        {"seconds": 32.0, "data": 1 / 8, "forward_backward": 5 / 8, "rest": 2 / 8, "data_wait": 1 / 8}
    )


def test_what_lies_before_a_restart_counts_for_nothing(host):
    clock, optimizer = StepClock(CPU), make_optimizer()
    clock.watch(optimizer)
    drive(clock, host, optimizer, steps=2, data=9.0, compute=9.0, rest=9.0)
    host.spend(1000.0)  # an evaluation
    clock.restart()
    found = drive(clock, host, optimizer, steps=3, data=3.0, compute=1.0, rest=0.0)
    assert found == pytest.approx(
        {"seconds": 12.0, "data": 0.75, "forward_backward": 0.25, "rest": 0.0, "data_wait": 0.75}
    )


def test_several_optimiser_hooks_in_one_step_divide_it_at_the_last(host):
    """With gradient accumulation the optimiser still steps once; were it to step twice, no time would be lost."""
    clock, optimizer = StepClock(CPU), make_optimizer()
    clock.watch(optimizer)
    for _ in clock.steps([0]):
        host.spend(2.0)
        optimizer.step()
        host.spend(1.0)
        optimizer.step()
        host.spend(1.0)
        found = clock.read()
    assert sum(found[part] for part in PARTS) == pytest.approx(1)
    assert found["forward_backward"] == pytest.approx(3 / 4)


def test_the_speedometer_divides_what_was_done_by_what_could_be(host):
    network = MultiCropNetwork(
        create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2),
        DINOHead(16, 32, hidden_dim=16, bottleneck_dim=8),
    )
    work = Work([(16, 0.0), (16, 0.0), (8, 0.0)], [(16, 0.0)] * 2, 3, 2, 3, 2)
    speed_of = timing.matrix_rate
    try:
        timing.matrix_rate = lambda device, precision: 1e6
        speed = Speedometer(network, work, CPU, "float32")
    finally:
        timing.matrix_rate = speed_of
    host.spend(4.0)
    found = speed.read(images=20)
    assert found["images_per_second"] == pytest.approx(5.0)
    assert found["mfu"] == pytest.approx(5 * count_operations(network, work).total / 1e6)
    assert found["memory_gib"] == peak_memory(CPU) > 0.05
    assert "1e-06 TFLOP/s" in str(speed)
    assert "float32" in str(speed)


def test_the_host_s_own_clock_is_used():
    clock = StepClock(CPU)
    for _ in clock.steps([0]):
        time.sleep(0.02)
        found = clock.read()
    assert 0.02 <= found["seconds"] < 5
    assert found["rest"] > 0.9
