"""Steps of iBOT-vMF and MSN: against iBOT's step written longhand, and against DINO's on the same crops.

    python benchmarks/patches.py            # a quarter of an hour on two idle cores
    python benchmarks/patches.py --quick    # tiny sizes, to see that it runs; targets are not judged

Before anything is timed, our step and the longhand are asserted to be equal. Prints tables and writes them, with
machine, versions and command, to patches.md in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits for another sleeps: spinning counts as work

import torch
from loss_memory import resident_mib
from measure import RESULTS, ROW_HEAD, Peer, Row, compare, environment, markdown_table, timed
from patches_cases import Longhand, Way, assert_equal_steps, make_crops, normalizer_timer
from torch.utils.flop_counter import FlopCounterMode

WAYS = {
    "iBOT-vMF, ours": lambda sizes: Way(sizes, "ibot"),
    "iBOT-vMF, longhand": Longhand,
    "DINO-vMF, ours": lambda sizes: Way(sizes, "dino"),
    "MSN, ours": lambda sizes: Way(sizes, "msn", "l2"),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    backbone: str
    crops: tuple[int, ...]
    batch: int
    components: int
    msn_components: int
    memory_rounds: int
    memory_ways: int


FULL = Sizes(5, "vit_small_patch16_224", (224, 224, *[96] * 10), 4, 8192, 1024, 3, 4)
QUICK = Sizes(1, "test_vit", (32, 32, 32), 2, 64, 32, 1, 1)


def measure_steps(sizes: Sizes, autocast: bool) -> list[Row]:
    """Whole steps, the longhand's against ours, and ours of each method against DINO's."""
    crops = make_crops(sizes)

    def timer(way: Way) -> object:
        return timed(lambda: way.step(crops))

    precision = ", bfloat16" if autocast else ""
    ibot, dino = Way(sizes, "ibot", autocast=autocast), Way(sizes, "dino", autocast=autocast)
    msn = Way(sizes, "msn", "l2", autocast=autocast)
    peers = [
        Peer("iBOT's longhand", timer(Longhand(sizes, autocast=autocast)), 1 / 0.7),
        Peer("our DINO-vMF step, same head", timer(dino), 1.15, is_floor=True),
        Peer("our iBOT step, without the normaliser", timer(Way(sizes, "ibot", "none", autocast=autocast))),
    ]
    rows = compare(f"iBOT-vMF step{precision}", timer(ibot), peers, sizes.rounds)
    peers = [Peer("our DINO-vMF step, same crops", timer(dino), 0.7, is_floor=True)]
    return rows + compare(f"MSN step{precision}", timer(msn), peers, sizes.rounds)


def emulation() -> float:
    """Time of a product in bfloat16 over that in float32: above 1 where the processor does not know bfloat16."""
    a, b = torch.randn(512, 384), torch.randn(1536, 384)
    halves = a.bfloat16(), b.bfloat16()
    peer = Peer("float32", timed(lambda: torch.nn.functional.linear(a, b)), is_floor=True)
    return compare("bfloat16", timed(lambda: torch.nn.functional.linear(*halves)), [peer], 3)[0].ratio


def measure_normalizer(sizes: Sizes) -> list[list[str]]:
    """What log C_p costs of a step of iBOT-vMF."""
    crops, way = make_crops(sizes), Way(sizes, "ibot")
    step, normalizer = timed(lambda: way.step(crops)), normalizer_timer(sizes)
    times = [(step(), normalizer()) for _ in range(sizes.rounds + 1)][1:]
    whole, part = (statistics.median(t[i] for t in times) for i in range(2))
    return [[f"{whole:.3g} s", f"{1e3 * part:.3g} ms", f"{100 * part / whole:.3f} %", "< 1 %"]]


def measure_operations(sizes: Sizes) -> list[list[str]]:
    """Operations of one step, by torch's counter: what no implementation of the same products can save."""
    crops, found = make_crops(sizes), {}
    for name, make in list(WAYS.items())[: sizes.memory_ways]:
        way = make(sizes)
        with FlopCounterMode(display=False) as counter:
            way.step(crops)
        found[name] = counter.get_total_flops()
    ours = found["iBOT-vMF, ours"]
    return [[name, f"{count / 1e9:,.4g} GFLOP", f"{ours / count:.2f}"] for name, count in found.items()]


def measure_memory(sizes: Sizes) -> list[list[str]]:
    """Most memory that one step holds above weights, gradients, moments and crops: a process for every figure."""
    found = {}
    for name in list(WAYS)[: sizes.memory_ways]:
        command = [sys.executable, __file__, "--memory-of", name, *(["--quick"] if sizes is QUICK else [])]
        peaks = []
        for _ in range(sizes.memory_rounds):
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(json.loads(done.stdout.splitlines()[-1])["peak_mib"])
        found[name] = statistics.median(peaks)
    ours = found["iBOT-vMF, ours"]
    return [[name, f"{peak:,.0f} MiB", f"{ours / peak:.2f}"] for name, peak in found.items()]


def peak_of(name: str, sizes: Sizes) -> float:
    """Height of one step in this process, MiB."""
    way, crops = WAYS[name](sizes), make_crops(sizes)
    way.step(make_crops(replace(sizes, batch=2)))  # moments and gradients are there from now on
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident_mib("VmRSS")
    way.step(crops)
    return resident_mib("VmHWM") - before


def main(argv: list[str]) -> None:
    """Measure everything, print and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; targets are not judged")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for patches.md")
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    sizes = QUICK if settings.quick else FULL
    if settings.memory_of:
        print(json.dumps({"peak_mib": peak_of(settings.memory_of, sizes)}))
        return
    assert_equal_steps(sizes)
    sections = []

    def add(name: str, text: str) -> None:
        sections.append(f"## {name}\n\n{text}")
        print(sections[-1], flush=True)

    for name, autocast in (("Steps", False), ("Steps in bfloat16", True)):
        if autocast and (ratio := emulation()) > 1 and not settings.quick:
            add(
                name,
                f"Not measured: this processor has no arithmetic for bfloat16. A product takes {ratio:.1f} times as "
                "long as in float32, which tells nothing of a machine on which somebody would choose it.\n",
            )
            continue
        rows = measure_steps(sizes, autocast)
        if settings.quick:
            rows = [replace(row, target=None) for row in rows]
        add(name, markdown_table(ROW_HEAD, [row.cells() for row in rows]))
    head = ["iBOT-vMF step", "normalisers of both terms", "share", "target"]
    add("Cost of the normaliser", markdown_table(head, measure_normalizer(sizes)))
    head = ["way", "operations", "iBOT-vMF, ours / this"]
    add("Operations of a step", markdown_table(head, measure_operations(sizes)))
    add(
        "Memory of a step",
        "Most memory held during one step above weights, gradients, moments and crops, float32; to reach: ours at most "
        "half of the longhand's.\n\n" + markdown_table(["way", "peak", "iBOT-vMF, ours / this"], measure_memory(sizes)),
    )
    crops = " + ".join(f"{sizes.crops.count(side)} x {side}" for side in dict.fromkeys(sizes.crops))
    title = (
        "# Steps with patches\n\n"
        f"{sizes.backbone}, {crops} pixels, batch {sizes.batch}, a shared head of {sizes.components:,} components "
        f"(MSN: {sizes.msn_components:,}), 30 % of the patches of both views masked (MSN: 15 % dropped), "
        f"{torch.get_num_threads()} threads. Times are processor time of all threads, which sleep while they wait: "
        f"medians of {sizes.rounds} alternating rounds; ratios are medians of the ratios within a round. Two steps of "
        "ours and of the longhand were equal (losses and parameters to 1e-4) in this run.\n\n"
        f"{environment('patches.py', argv, ['torch', 'timm'])}\n"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "patches.md").write_text("\n".join([title, *sections]), encoding="utf-8")
    print(f"written to patches.md in {settings.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
