from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from search_core.kernels import backend
from search_core.kernels.backend import kind_of, num_parts, over_images, torch_only, use_native


@pytest.fixture(params=["openmp", "threads", "one thread"])
def two_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each way in which parts are run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.param == "one thread" else 2)
    if request.param == "threads":
        monkeypatch.setattr(backend, "_openmp_of_torch", lambda: None)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("num_images", "parts"), [(8, 8), (10, 4), (3, 2), (1, 1)])
def test_every_image_belongs_to_one_part(num_images: int, parts: int) -> None:
    seen: list[tuple[int, int, int, str]] = []
    over_images(lambda *arguments: seen.append(arguments), num_images, parts, "more")
    ordered = sorted(seen)
    assert [part for part, *_ in ordered] == list(range(parts))
    assert [image for _, first, last, _ in ordered for image in range(first, last)] == list(range(num_images))
    assert {more for *_, more in ordered} == {"more"}


@pytest.mark.usefixtures("two_threads")
def test_errors_of_a_part_reach_the_caller() -> None:
    def fail(part: int, first: int, last: int) -> None:
        if part == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        over_images(fail, 8, 4)
    over_images(lambda *_: None, 8, 4)  # and the threads are still there


def test_torch_on_this_machine_has_an_openmp_to_share() -> None:
    """On Linux; elsewhere threads of our own are used, which the tests above cover."""
    assert backend._openmp_of_torch() is not None


def test_number_of_parts_follows_the_work_alone() -> None:
    assert num_parts(64, 64 * 32 * 32 * 16) == 8
    assert num_parts(4, 64 * 32 * 32 * 16) == 4  # no part without an image
    assert num_parts(64, 64 * 8 * 8 * 8) == 1


@pytest.mark.parametrize(
    ("channels", "dtype", "lanes"),
    [(16, torch.float32, 16), (24, torch.float32, 8), (36, torch.float32, 4), (16, torch.float64, 8)],
)
def test_registers_divide_the_channels(channels: int, dtype: torch.dtype, lanes: int) -> None:
    like, register = kind_of(torch.empty(2, channels, dtype=dtype))
    assert (like.itemsize, len(register)) == (torch.empty(0, dtype=dtype).itemsize, lanes)


def test_kernels_are_for_cpu_tensors_of_known_types_with_channels_by_four() -> None:
    assert use_native(torch.empty(2, 8))
    assert not use_native(torch.empty(2, 6))
    assert not use_native(torch.empty(2, 8, dtype=torch.float16))
    assert not use_native(torch.empty(2, 8, device="meta"))
    with torch_only():
        assert not use_native(torch.empty(2, 8))
    assert use_native(torch.empty(2, 8))
