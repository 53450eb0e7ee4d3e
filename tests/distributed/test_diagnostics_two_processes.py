"""Statistics of a run, in two processes on the CPU (gloo): both get what one process gets from all the rows."""

import textwrap

import preloaded
import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_two_processes_measure_like_one(tmp_path):
    script = tmp_path / "measure.py"
    script.write_text(
        textwrap.dedent("""
        import copy, math, torch, torch.distributed as dist
        from vmflearn.ssl import DINOHead, Monitor
        from vmflearn.monitor.collapse import locate_not_finite
        torch.manual_seed(0)
        targets = (3 * torch.randn(2, 8, 16)).softmax(-1)
        features, y = torch.randn(2, 8, 6), torch.randn(2, 8, 5)
        patches, patch_y = (3 * torch.randn(7, 9)).softmax(-1), torch.randn(7, 5)
        head = DINOHead(6, 16, hidden_dim=8, bottleneck_dim=5)
        teacher = copy.deepcopy(head)
        def measure(rows, masked):
            monitor = Monitor(16, window=1000)
            monitor.count(targets[:, rows])
            return monitor.observe(step=1, loss=2.0, targets=targets[:, rows], features=features[:, rows],
                                   teacher_y=y[:, rows], student=head, teacher=teacher, student_temp=0.1,
                                   teacher_temp=0.04, patches=(patches[masked], patch_y[masked], 0.05))
        alone = measure(slice(None), slice(None))
        assert alone["patch_teacher_information"] > 0.1
        dist.init_process_group("gloo")
        r = dist.get_rank()
        for first in (5, 7):  # masked patches on the first process; the second has the rest, which may be none
            together = measure(slice(4 * r, 4 * r + 4), slice(first) if r == 0 else slice(first, None))
            assert together.keys() == alone.keys()
            for name in alone:
                assert math.isclose(together[name], alone[name], rel_tol=1e-5, abs_tol=1e-7), (name, together, alone)
        spoilt = torch.zeros(2, 4, 3)
        if r == 1:
            spoilt[0, 2, 1] = math.nan
        assert "features of image 6 of" in str(locate_not_finite(features=spoilt))
        dist.destroy_process_group()
        """)
    )
    done = preloaded.together(2, [script])
    assert done.returncode == 0, done.stderr[-3000:]
