"""Turn a folder of images into tar shards (WebDataset's layout) with an index, for training from any file system.

    python scripts/make_shards.py /data/imagenet/train /data/imagenet-shards/train
    torchrun ... scripts/pretrain.py ... --data.source shards --data.root /data/imagenet-shards/train

Files are copied as they are. The same command goes on where it was stopped or killed, and does nothing when all is
made. Ctrl-C exits with 130, an error with 2.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, with or without class sub-folders")
    parser.add_argument("out", type=Path, help="folder of the shards: new, empty, or begun by the same command")
    parser.add_argument("--shard-size", type=int, default=1000, help="images in a shard (default: %(default)s)")
    settings = parser.parse_args()

    from vmflearn.data.shard_writing import write_shards

    try:
        manifest = write_shards(settings.folder, settings.out, shard_size=settings.shard_size)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last whole shard", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in manifest["notes"]:
        print(f"note: {note}", file=sys.stderr)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(
        f"{manifest['images']} images of {len(manifest['class_names'])} classes in {len(manifest['shards'])} shards, "
        f"{size / 1e9:.3g} GB, in {settings.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
