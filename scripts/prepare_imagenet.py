"""Make class folders or shards of ImageNet (ILSVRC 2012) as it was downloaded.

    python scripts/prepare_imagenet.py /data/downloads /data/imagenet
    python scripts/prepare_imagenet.py /data/downloads /data/imagenet-shards --shards

The first argument is a folder that holds one of these:

    ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz      from image-net.org
    imagenet-object-localization-challenge.zip, or its ILSVRC and LOC_val_solution.csv  from Kaggle
    train-*.parquet, validation-*.parquet                                 from Hugging Face (needs pyarrow)

Parts that are not there are not made. The same command goes on where it was stopped or killed. Files are copied as they
are; those of an unpacked download are linked where the disk can do so. Nothing of the source is changed.

Labels are the places of the synset ids in sorted order (n01440764 is 0), as in torchvision, timm and Hugging Face. The
development kit numbers the classes in another order; classes.tsv in the new folder lists both.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the downloaded files, or Kaggle's zip file")
    parser.add_argument("out", type=Path, help="folder of train and val: new, empty, or begun by the same command")
    parser.add_argument("--shards", action="store_true", help="tar shards in place of class folders")
    parser.add_argument("--shard-size", type=int, default=1000, help="images in a shard (default: %(default)s)")
    parser.add_argument("--subset", action="store_true", help="go on where images or classes are missing, and say so")
    settings = parser.parse_args()

    from vmflearn.data.imagenet.preparing import prepare

    shard_size = settings.shard_size if settings.shards else None
    try:
        parts, notes = prepare(settings.source, settings.out, shard_size=shard_size, subset=settings.subset)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for part in parts:
        n_classes = len(part.labels.unique())
        print(f"{part.title}: {len(part):,} images of {n_classes:,} classes in {settings.out / part.title}")
    print(f"label 0 is {parts[0].class_names[0]}: the sorted order of synset ids; see {settings.out / 'classes.tsv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
