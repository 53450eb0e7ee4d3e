"""ImageNet (ILSVRC 2012) as people have it: its archives as downloaded, Kaggle's layout, Hugging Face's parquet files.

`scripts/prepare_imagenet.py` makes class folders or shards of any of them (`vmflearn.data.imagenet.preparing`).

A label here, in torchvision, timm and Hugging Face, is the place of a class's synset id ("n01440764") among the sorted
ids. The development kit numbers its classes in another order, from 1: its class 1 is n02119789, a fox, and label 278.
"""
