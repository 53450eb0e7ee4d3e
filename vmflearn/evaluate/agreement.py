"""Processes that evaluate together must be given the same: else one could wait for ever, or their parts be mixed up."""

from collections.abc import Mapping

from vmflearn import distributed


def check_same(own: Mapping[str, object]) -> None:
    """Refuse what differs between processes; all of them call it.

    Parameters
    ----------
    own : mapping
        Plain values of this process, by the names that a reader knows them by.

    Raises
    ------
    ValueError
        On the first process, with every name that differs and its value on each.
    ElsewhereError
        On the others.
    """
    differences = distributed.differences(own)

    def refuse() -> None:
        if differences:
            raise ValueError(f"processes that work together differ: {differences}; give all the same")

    distributed.on_first(refuse)
