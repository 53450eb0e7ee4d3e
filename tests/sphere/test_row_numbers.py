"""Numbers that belong to the values of rows."""

import numpy as np
import torch
from scipy import sparse
from scipy.stats import kstest

from vmflearn.sphere.row_numbers import bits_of, random_multipliers, uniform_numbers
from vmflearn.sphere.rows import DenseChunk
from vmflearn.sphere.sparse_rows import SparseChunk


def test_published_numbers_of_splitmix64():
    """The first five of seed 1234567 (Rosetta Code, from Vigna's splitmix64.c); the last twelve bits are left out."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    expected = [(z // 2**12 + 0.5) / 2**52 for z in published]
    assert uniform_numbers(np.array([1234567]), 5).tolist() == [expected]


def test_hash_is_the_sum_modulo_two_to_the_64():
    x = np.random.default_rng(0).normal(size=(6, 9))
    x[:, 4] = 0.0
    multipliers = random_multipliers(9, np.random.RandomState(0))
    assert (multipliers % 2 == 1).all()
    bits = [[int(np.float32(value).view(np.uint32)) for value in row] for row in x]
    # a negative float32 has its sign in bit 31, which is negative in the integer of 32 bits
    signed = [[b - 2**32 if b >= 2**31 else b for b in row] for row in bits]
    expected = [sum(int(a) * b for a, b in zip(multipliers, row, strict=True)) % 2**64 for row in signed]
    for chunk in (DenseChunk(torch.from_numpy(x)), SparseChunk(sparse.csr_array(x))):
        assert [int(h) % 2**64 for h in chunk.hashes(multipliers)] == expected


def test_zeros_of_either_sign_and_what_rounds_to_them_are_alike():
    assert bits_of(np.array([0.0, -0.0, 1e-60, -1e-60])).tolist() == [0, 0, 0, 0]


def test_numbers_of_close_rows_and_of_basis_vectors_are_independent_and_uniform():
    for x in (np.eye(300), 1 + np.arange(300)[:, None] * 1e-6 * np.eye(4)[:1]):
        numbers = uniform_numbers(bits_of(x) @ random_multipliers(x.shape[1], np.random.RandomState(0)), 4)
        assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
        correlation = np.corrcoef(np.vstack([numbers.T, np.roll(numbers.T, 1, axis=1)]))
        assert np.abs(correlation[np.triu_indices(8, 1)]).max() < 4.5 / np.sqrt(300)
