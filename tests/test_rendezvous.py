"""Processes played by threads on one store, started at random moments, several attempts one after the other."""

import random
import threading
import time

import pytest
from torch.distributed import HashStore

from vmflearn.rendezvous import fresh_store


def attempt(store, world_size, rng):
    """Every process meets the others, and tells them where it is; returns what each of them read."""
    read = [None] * world_size

    def process(rank, delay, address):
        time.sleep(delay)
        place = fresh_store(store, rank, world_size)
        place.set(f"address/{rank}", address)
        read[rank] = [place.get(f"address/{other}").decode() for other in range(world_size)]

    addresses = [f"{rng.random()}" for _ in range(world_size)]
    threads = [
        threading.Thread(target=process, args=(rank, rng.uniform(0, 0.05), address), daemon=True)
        for rank, address in enumerate(addresses)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return read, addresses


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_attempt_finds_its_own_addresses(world_size):
    store, rng = HashStore(), random.Random(world_size)
    for _ in range(6):
        read, addresses = attempt(store, world_size, rng)
        assert read == [addresses] * world_size


def test_an_attempt_that_was_cut_short_and_another_number_of_processes_do_no_harm():
    store, rng = HashStore(), random.Random(0)
    attempt(store, 3, rng)
    for key in ("meet/name/0", "meet/name/2", "meet/confirmed/1"):  # as left by processes killed half-way
        store.set(key, "gone")
    for world_size in (2, 4, 3):
        read, addresses = attempt(store, world_size, rng)
        assert read == [addresses] * world_size
