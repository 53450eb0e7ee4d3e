"""What tells the images of a source from others, for whoever keeps what was made of them.

Names do not: train and val may number their images alike, and a blurred copy of a set has the names of the set.
"""

import hashlib

from vmflearn.data.decoding import ImageSource, UnreadableImage


def images_digest(source: ImageSource) -> str:
    """SHA-256 of all names and of the pixels of the first image, the middle one and the last, 64 hexadecimal digits.

    Like the names' it does not depend on where the images lie. An image that cannot be read counts by its name.
    """
    found = hashlib.sha256(source.names_digest().encode())
    for index in (0, len(source) // 2, len(source) - 1):
        try:
            pixels, size = source.pixels(index)
        except UnreadableImage:
            continue
        found.update(repr((index, size)).encode() + pixels.tobytes())
    return found.hexdigest()
