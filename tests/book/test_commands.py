"""Every command that chapter 13 prints is executed as printed, at smoke size.

Only what a reader's machine must have is replaced: folders of images become a folder of sixteen, eight GPUs two
processes on the CPU, two nodes this one, a published checkpoint one made here. All other words stay, so that a wrong
flag, a missing file or a command of a kind that nobody thought of fails a test. Settings for the size are added at the
end. The batch job itself runs in tests/scripts/test_slurm.py.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import preloaded
import pytest
from chapters import SRC
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vmflearn.data.shard_writing import write_shards
from vmflearn.train import ConfigError, load_config, pretrain
from vmflearn.train.runs.records import read_metrics

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = SRC / "13_imagenet.md"
BLOCK = re.compile(r"^```(?:bash|console|sh|shell)\n(.*?)^```", re.S | re.M)
SMOKE = [
    "--model.options={img_size: 32, patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}",
    "--model.drop_path=0",
    "--views.global_size=32",
    "--views.local_size=16",
    "--views.n_local=1",
    "--head.out_dim=32",
    "--head.hidden_dim=32",
    "--head.bottleneck_dim=16",
    "--data.workers=0",
    "--optimizer.batch_size=8",
    "--run.device=cpu",
    "--run.precision=float32",
    "--run.log_every=1",
    "--run.knn_k=3",
]
TWO_STEPS = "--run.max_steps=2"


class UnknownCommand(Exception):
    """A printed command of a kind that is not executed here."""


def printed(text):
    """The commands of a chapter's shell blocks, continued lines joined."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.startswith("#")]


COMMANDS = printed(CHAPTER.read_text(encoding="utf-8"))
CONTINUED = next(command for command in COMMANDS if "--standalone" in command and "--max-restarts" in command)
NEW = [command for command in COMMANDS if command != CONTINUED]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what a reader has: images, shards of them, and a checkpoint to start from."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(16):
            path = folder / "images" / part / f"class_{i % 2}" / f"{i:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((48, 40), Image.Resampling.BICUBIC).save(path)
        write_shards(folder / "images" / part, folder / "shards" / part, shard_size=8)
    (folder / "downloads").mkdir()
    with tarfile.open(folder / "downloads" / "ILSVRC2012_img_train.tar", "w") as archive:  # a tar of tars
        for number, kind in enumerate(("class_0", "class_1"), start=1):
            name, inner = f"n{number:08}", folder / f"{number}.tar"
            with tarfile.open(inner, "w") as images:
                for i, path in enumerate(sorted((folder / "images" / "train" / kind).iterdir())):
                    images.add(path, f"{name}_{i}.JPEG")
            archive.add(inner, f"{name}.tar")
    recipe = ROOT / "scripts" / "configs" / "imagenet_vit_small16_dino_vmf.yaml"
    config = load_config(recipe, [*SMOKE, "run.max_steps=1", f"data.root={folder / 'images' / 'train'}"])
    pretrain(config, folder / "run", quiet=True)
    (folder / "published.pth").write_bytes(max((folder / "run" / "checkpoints").glob("step-*.pt")).read_bytes())
    return folder


@pytest.fixture
def here(tmp_path):
    """A folder to run commands in, which looks like the root of the checkout as far as they can see."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts", target_is_directory=True)
    return tmp_path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def at_home(word, world):
    """A word of a command with the reader's paths replaced by ours."""
    key, equals, value = word.rpartition("=")
    if value.startswith("/data/"):
        kind = "shards" if "shards" in value else "images"
        return f"{key}{equals}{world / kind / ('train' if value.endswith('train') else 'val')}"
    return str(world / "published.pth") if word.endswith(".pth") else word


def torchrun(words):
    """torchrun's own words, for two processes on this machine, and the script's."""
    end = next(i for i, word in enumerate(words) if word.startswith("scripts/"))
    own = words[:end]
    if "--nproc-per-node" in own:
        own[own.index("--nproc-per-node") + 1] = "2"
    if "--nnodes" in own:
        own[own.index("--nnodes") + 1] = "1"
        own[own.index("--rdzv-endpoint") + 1] = f"localhost:{free_port()}"
    return ["-m", "torch.distributed.run", *own], words[end:]


def run(arguments, folder):
    """Run Python in a folder; exit status and all that it said."""
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env = clean | {"PYTHONPATH": str(ROOT), **preloaded.FIXED}
    if arguments[0] == "-m":
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = preloaded.run(arguments, folder, env)
    return done.returncode, done.stdout + done.stderr


def execute(command, world, folder, *more):
    """Execute a printed command at smoke size; exit status, what it said, and the words that must be in it."""
    program, *words = [at_home(word, world) for word in shlex.split(command)]
    if program == "python" and words[0] == "scripts/pretrain.py" and "--dry-run" in words:
        return *run(words, folder), ["a dry run, nothing is trained", "FLOP in all", "expected"]
    if program in ("python", "torchrun") and "scripts/pretrain.py" in words:
        launcher, words = ([], words) if program == "python" else torchrun(words)
        expected = ["finished after 2 steps"]
        size = [*SMOKE, TWO_STEPS]
        if "--profile" in words:
            traced = words[words.index("--profile") + 1]
            size, expected = SMOKE, [f"profile of {traced} steps", "finished after 20 steps"]
        if "--init-from" in words:
            expected += ["restored: backbones of student and teacher", "restored: prototypes", "afresh: optimiser"]
        return *run([*launcher, *words, *size, *more], folder), expected
    if program == "python" and words[0] == "scripts/make_shards.py":
        return *run([*words[:-1], "made"], folder), ["16 images of 2 classes"]  # what is printed last is made already
    if program == "python" and words[0] == "scripts/prepare_imagenet.py":
        source, _ = shlex.split(command)[2:]
        assert source == "/data/downloads"
        status, said = run([words[0], str(world / "downloads"), "made", "--subset"], folder)
        return status, said, ["16 images of 2 classes"]
    if program in ("python", "torchrun") and "scripts/ablation.py" in words:
        launcher, words = ([], words) if program == "python" else torchrun(words)
        expected = ["[12 of 12]", "The paper reports (Table 1"]
        return *run([*launcher, *words, *SMOKE, "--run.max_steps=1", *more], folder), expected
    if program == "python" and words[:2] == ["-m", "pytest"]:
        marked = [str(p) for p in (ROOT / "tests").rglob("test_*.py") if "\n@pytest.mark.gpu" in p.read_text()]
        status, said = run([*words, "--collect-only", "-q", "-p", "no:cacheprovider", *marked], ROOT)
        return status, said, ["::", "selected"]
    if program == "tensorboard":
        assert words[0] == "--logdir", words
        assert len(words) == 2, words
        (events,) = (world / "run" / "tensorboard").glob("events.*")
        scalars = EventAccumulator(str(events)).Reload().Scalars("loss")
        logged = [line["loss"] for line in read_metrics(world / "run" / "metrics.jsonl")]
        assert [event.value for event in scalars] == pytest.approx(logged)
        return *run(["-m", "tensorboard.main", *words, "--inspect"], folder), ["Processing event files"]
    if program == "sbatch":
        return *submitted(words), []
    raise UnknownCommand(command)


def submitted(words):
    """Whether a batch job would be taken: the script is sound, and its configuration can be run."""
    options = [word for word in words[: words.index("scripts/slurm/pretrain.sbatch")]]
    script, config, *overrides = words[len(options) :]
    assert all(re.fullmatch(r"--nodes=\d+", option) for option in options), options
    sound = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True, check=False)
    try:
        load_config(ROOT / config, overrides)
    except ConfigError as error:
        return 2, str(error)
    return sound.returncode, sound.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", NEW, ids=[f"{i:02}" for i in range(1, len(NEW) + 1)])
def test_printed_command_runs(command, world, here):
    if command.startswith("tensorboard"):
        (here / "runs").symlink_to(world, target_is_directory=True)
    status, said, expected = execute(command, world, here)
    assert status == 0, f"{command}\n{said[-4000:]}"
    for words in expected:
        assert words in said, f"{command}\n{said[-4000:]}"


def test_the_chapter_prints_every_way_to_start_a_run():
    text = "\n".join(COMMANDS)
    for words in (
        "photos_vit_tiny_dino_vmf.yaml",
        "--dry-run",
        "--nproc-per-node 8",
        "--nnodes 2",
        "--max-restarts",
        "sbatch ",
        "make_shards.py",
        "--data.source shards",
        "--init-from",
        "--profile",
        "tensorboard ",
        "ablation.py",
        "-m pytest -m gpu",
    ):
        assert words in text, words


@pytest.mark.slow
def test_the_same_command_continues_on_another_number_of_processes(world, here):
    alone = "python " + CONTINUED[CONTINUED.index("scripts/pretrain.py") :]
    status, said, _ = execute(alone, world, here, "--run.max_steps=1")
    assert status == 0, said
    status, said, expected = execute(CONTINUED, world, here)
    assert status == 0, said
    assert "at step 1 of 2" in said
    assert "2 process(es) now, 1 before" in said
    assert expected[0] in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("like", "right", "wrong"),
    [
        ("python scripts/pretrain.py", "--run-dir", "--run-folder"),
        ("torchrun --standalone", "--nproc-per-node", "--nproc-each-node"),
        ("python scripts/make_shards.py", "train /", "train --size 9 /"),
        ("sbatch", "--data.source", "--data.sauce"),
    ],
)
def test_a_wrong_word_is_found(like, right, wrong, world, here):
    command = next(c for c in COMMANDS if c.startswith(like) and right in c).replace(right, wrong)
    status, said, _ = execute(command, world, here)
    assert status != 0, said


@pytest.mark.parametrize("command", ["curl -O weights.example", "python scripts/absent.py", "make pretrain"])
def test_an_unknown_command_is_an_error(command, tmp_path):
    text = f"Text.\n\n```bash\n# a comment\n{command}\n```\n\n```python\nprint()\n```\n"
    assert printed(text) == [command]
    with pytest.raises(UnknownCommand):
        execute(command, tmp_path, tmp_path)
