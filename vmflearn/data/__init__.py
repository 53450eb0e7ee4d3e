"""Data: the embedded photographs, images in folders, shards and named sets, and the book's real directional data."""

import importlib

_HOMES = {
    "Photos": "photos",
    "load_photos": "photos",
    "ImageSource": "decoding",
    "UnreadableImage": "decoding",
    "open_images": "sources",
    "open_source": "sources",
    "Household": "household",
    "load_household": "household",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
