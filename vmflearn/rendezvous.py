"""A place to meet that no earlier attempt has used.

Processes find one another through a store of keys and values. torchrun keeps that store when it starts them again, and
with it the addresses of processes that are gone: one that reads such an address before its new owner has written his
fails with "connection refused", or waits for ever. The number of the restart cannot tell attempts apart, because each
node counts its own. So the processes of an attempt agree on a new name first, and meet under it.
"""

import json
import time
import uuid

from torch.distributed import PrefixStore, Store

PAUSE = 0.01
"""Seconds between two looks at the store."""


def fresh_store(store: Store, rank: int, world_size: int) -> PrefixStore:
    """Agree with the other processes of this attempt on a part of the store that is empty.

    Every process writes a name of its own. The first one answers with the names it has found, under a token; a process
    confirms the token of an answer that holds its own name, not a predecessor's; and when all have confirmed the same
    token, the first one gives the sign to go.

    Parameters
    ----------
    store : Store
        Shared by all processes; what earlier attempts have left in it does no harm.
    rank, world_size : int
        Of this process, and of all.

    Returns
    -------
    PrefixStore
        For ``init_process_group``.
    """
    name = uuid.uuid4().hex
    others = range(world_size)
    store.set(f"meet/confirmed/{rank}", "")
    if rank == 0:
        store.set("meet/go", "")
    store.set(f"meet/name/{rank}", name)
    names: list[str] = []
    token = ""
    while True:
        if rank == 0:
            found = _read(store, [f"meet/name/{other}" for other in others])
            if found != names:
                names, token = found, uuid.uuid4().hex
                store.set("meet/answer", json.dumps([token, names]))
        answer, known = json.loads(_read(store, ["meet/answer"])[0])
        if len(known) == world_size and known[rank] == name:
            token = answer
            store.set(f"meet/confirmed/{rank}", token)
        if rank == 0 and set(_read(store, [f"meet/confirmed/{other}" for other in others])) == {token}:
            store.set("meet/go", token)
        if token and _read(store, ["meet/go"]) == [token]:
            return PrefixStore(token, store)
        time.sleep(PAUSE)


def _read(store: Store, keys: list[str]) -> list[str]:
    """Values of keys; waits until there are any."""
    return [value.decode() for value in store.multi_get(keys)]
