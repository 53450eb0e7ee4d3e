import numpy as np
import pytest

from vmflearn.train.schedules import cosine, teacher_temperature


@pytest.mark.parametrize(("total", "warmup"), [(100, 0), (100, 1), (100, 10), (7, 7), (40, 39)])
@pytest.mark.parametrize(("start", "end"), [(5e-4, 1e-6), (0.04, 0.4), (0.996, 1.0)])
def test_cosine_equals_dinos_array(total, warmup, start, end):
    # The whole schedule as an array, the way DINO builds it.
    ramp = np.linspace(0, start, warmup) if warmup else np.array([])
    i = np.arange(total - warmup)
    tail = end + 0.5 * (start - end) * (1 + np.cos(np.pi * i / max(1, len(i))))
    ours = [cosine(step, total, start, end, warmup) for step in range(total)]
    np.testing.assert_allclose(ours, np.concatenate([ramp, tail]), rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize("warmup", [0, 1, 2, 30])
def test_teacher_temperature_equals_dinos_array(warmup):
    epochs = 50
    array = np.concatenate([np.linspace(0.04, 0.07, warmup), np.full(epochs - warmup, 0.07)])
    ours = [teacher_temperature(epoch, 0.04, 0.07, warmup) for epoch in range(epochs)]
    np.testing.assert_allclose(ours, array, rtol=1e-14)
