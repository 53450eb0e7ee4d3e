"""DINO's training step here against the same step of an earlier commit, paired.

    python benchmarks/earlier.py                    # ten minutes on two idle cores
    python benchmarks/earlier.py --before COMMIT
    python benchmarks/earlier.py --quick            # tiny sizes, to see that it runs; the target is not judged

The earlier tree is unpacked from git into a temporary folder. Each tree gets a process of its own, which builds the
step of its `pretrain_cases.Way` (the same seeds and crops) and waits; then they take turns. Losses of the two must be
equal before the times count for anything. By default the commit is the last one whose step knew DINO alone. Prints a
table and writes it, with machine, versions and command, to earlier.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits for another sleeps: spinning counts as work

from measure import RESULTS, duration, environment, markdown_table
from scipy.stats import binom

ROOT = Path(__file__).parents[1]
BEFORE = "e984efd"  # its child made a method one file and a section of the configuration
TARGET = 1.02

WORKER = """
import sys, time, types
import torch
from pretrain_cases import Way

backbone, components, batch, *sides = sys.argv[1:]
way = Way(types.SimpleNamespace(backbone=backbone, components=int(components)))
generator = torch.Generator().manual_seed(1)
crops = [torch.randn(int(batch), 3, int(s), int(s), generator=generator) for s in sides]
for _ in sys.stdin:
    start = time.process_time()
    loss = way.step(crops)
    print(time.process_time() - start, float(loss).hex(), flush=True)
"""


class Turns:
    """A process of one tree that takes a step whenever it is asked to."""

    def __init__(self, tree: Path, sizes: list[str]):
        paths = os.pathsep.join(str(tree / part) for part in ("", "benchmarks"))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, *sizes],
            env=os.environ | {"PYTHONPATH": paths},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> tuple[float, str]:
        """Processor seconds of one step, and its loss to the last bit."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError(f"a step ended with status {self.process.wait()}; what it said stands above")
        return float(answer[0]), answer[1]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def unpack(commit: str, folder: Path) -> None:
    """Put the files of a commit into a folder."""
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise SystemExit(f"cannot read commit {commit}: {done.stderr.decode().strip()}; is the history whole?")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and store; the exit status is 1 where losses differ or the target is missed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for earlier.md")
    known = parser.parse_args(given)
    backbone, components, batch, sides = "vit_small_patch16_224", 65_536, 4, [224] * 2 + [96] * 10
    if known.quick:
        backbone, components, batch, sides = "vit_tiny_patch16_224", 64, 2, [32] * 3
    sizes = [backbone, str(components), str(batch), *map(str, sides)]
    with tempfile.TemporaryDirectory() as folder:
        unpack(known.before, Path(folder))
        now, before = Turns(ROOT, sizes), Turns(Path(folder), sizes)
        try:
            rounds = []
            for i in range(1 if known.quick else known.rounds + 1):
                first, second = (now, before) if i % 2 else (before, now)  # neither always comes after the other
                a, b = first.step(), second.step()
                rounds.append((a, b) if first is now else (b, a))
                print(f"round {i}: {rounds[-1][0][0]:.3f} s now, {rounds[-1][1][0]:.3f} s before", flush=True)
        finally:
            now.close()
            before.close()
    equal = all(a[1] == b[1] for a, b in rounds)
    counted = rounds if known.quick else rounds[1:]  # the first fills caches and makes the moments
    ratios = [a[0] / b[0] for a, b in counted]
    ratio = statistics.median(ratios)
    rank = int(binom.ppf(0.025, len(ratios), 0.5))  # from both ends: between them the true median lies, 95 %
    low, high = (f"{sorted(ratios)[i]:.3f}" for i in (max(rank - 1, 0), -max(rank, 1)))
    ours, theirs = (statistics.median(pair[side][0] for pair in counted) for side in range(2))
    verdict = "" if known.quick else "met" if ratio <= TARGET else "**missed**"
    head = ["what", "now", "before", "now / before", "95 % interval", "target", ""]
    cells = ["DINO step", duration(ours), duration(theirs), f"{ratio:.3f}", f"{low} to {high}"]
    text = (
        "# DINO's step against an earlier one\n\n"
        f"{backbone}, crops of {' '.join(map(str, sides))} pixels, batch {batch}, {components:,} components, float32, "
        f"two threads. Processor time of two processes in turn, {len(counted)} rounds, either first in turn. "
        f"The ratio is the median of the ratios within a round. Before: commit {known.before}. Losses of all "
        f"{len(rounds)} steps were {'equal to the last bit' if equal else '**not equal**'}.\n\n"
        f"{environment('earlier.py', given, ['torch', 'timm'])}\n\n"
        + markdown_table(head, [[*cells, f"≤ {TARGET}", verdict]])
    )
    print(text)
    known.out.mkdir(parents=True, exist_ok=True)
    (known.out / "earlier.md").write_text(text, encoding="utf-8")
    return int(not equal or verdict == "**missed**")


if __name__ == "__main__":
    sys.exit(main())
