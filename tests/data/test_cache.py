"""What is kept of decoded photos: a budget for the whole process, whose size changes no pixel."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from learn2splat.data.cache import MEMORY_SHARE, MOST_BYTES, PIXELS, LruCache, fit_cache
from learn2splat.data.lens import Lens
from learn2splat.data.photos import LazyPhotos, PhotoFile, fit_photo
from tests.data.test_photos import RNG, save


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 30))
def test_the_cache_keeps_the_most_recent_within_its_budget(keys: list[int], budget: int) -> None:
    cache: LruCache[bytes] = LruCache(budget, len)
    order: list[int] = []
    for key in keys:
        size = 1 + key
        made: list[int] = []
        assert cache.get(key, lambda size=size, made=made: made.append(1) or bytes(size)) == bytes(size)  # type: ignore
        assert (not made) == (key in order), "made exactly when a naive list of recent keys lacks it"
        if key in order:
            order.remove(key)
        if size <= budget:
            order.append(key)
        while sum(1 + k for k in order) > budget:
            order.pop(0)
        assert cache.used_bytes == sum(1 + k for k in order) <= budget


@pytest.fixture
def budget() -> Iterator[Callable[[int], None]]:
    """Sets the bytes that the process keeps of photos, nothing of other tests among them."""

    def choose(budget_bytes: int) -> None:
        PIXELS.resize(0)
        PIXELS.resize(budget_bytes)

    yield choose
    choose(MOST_BYTES)


def test_the_budget_is_a_share_of_what_the_process_may_hold(budget: Callable[[int], None]) -> None:
    for memory_mb in (0.0, 300.0, 1e9):
        fit_cache(memory_mb)
        assert PIXELS.budget_bytes == min(MOST_BYTES, int(MEMORY_SHARE * memory_mb * 2**20))


def test_of_a_thousand_photos_few_are_held_at_once(tmp_path: Path, budget: Callable[[int], None]) -> None:
    """As many as the budget takes; a second look gives the same pixels, whatever the budget."""
    size, kept = 24 * 16 * 3, 10
    files = []
    for number in range(1000):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(np.full((16, 24, 3), number % 251, np.uint8)).save(path, quality=95)
        files.append(PhotoFile(path, 24, 16))
    photos = LazyPhotos(files)
    budget(kept * size + size // 2)
    assert photos.bytes_to_come == PIXELS.budget_bytes
    held, most, first = weakref.WeakSet[torch.Tensor](), 0, []
    for view in range(1000):
        photo = photos[view]
        held.add(photo)
        most = max(most, len(held))
        first.append(int(photo.sum()))
    assert most == kept
    budget(MOST_BYTES)
    assert photos.bytes_to_come == 1000 * size
    assert [int(photos[view].sum()) for view in range(1000)] == first
    assert PIXELS.used_bytes == 1000 * size
    budget(0)
    assert [int(photos[view].sum()) for view in (0, 999)] == [first[0], first[999]]
    assert PIXELS.used_bytes == 0


def test_photos_stay_within_the_byte_budget_and_are_shared(tmp_path: Path, budget: Callable[[int], None]) -> None:
    files = [PhotoFile(save(tmp_path / f"{i}.png", np.full((8, 8, 3), i, np.uint8)), 8, 8) for i in range(6)]
    photos = LazyPhotos(files)
    budget(3 * 192)
    assert [int(photos[i].max()) for i in range(6)] == list(range(6))
    assert PIXELS.used_bytes == 3 * 192
    assert photos[5] is photos[-1]
    assert photos[5].dtype == torch.uint8
    with pytest.raises(IndexError):
        photos[6]


def test_threads_and_processes_see_the_same_photos(tmp_path: Path, budget: Callable[[int], None]) -> None:
    images = RNG.integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    lens = Lens("OPENCV", 60, 40, (60.0, 60.0, 30.0, 20.0, -0.1, 0.0, 0.0, 0.0))
    files = [fit_photo(save(tmp_path / f"{i}.png", image), lens, 30)[0] for i, image in enumerate(images)]
    alone = [LazyPhotos(files)[view] for view in range(5)]
    shared = LazyPhotos(files)
    budget(2 * 30 * 20 * 3)
    views = RNG.integers(0, 5, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda view: torch.equal(shared[view], alone[view]), views))
    assert PIXELS.used_bytes <= 2 * 30 * 20 * 3
    travelled = pickle.loads(pickle.dumps(shared))
    assert all(torch.equal(travelled[view], alone[view]) for view in range(5))
