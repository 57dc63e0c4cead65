"""An image tower in the real server: values, merging, its cache, and images of another size."""

import asyncio

import numpy as np
import pytest

from tests.support.tiny_image import expected, images, install
from tests.support.tiny_repository import LOAD_SECONDS, RunningTriton, statistics
from triton_models.client.client import TritonClient
from triton_models.client.errors import TritonError


def test_images_of_many_requests_get_their_own_vectors(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "image_values", seed=1)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("image_values", LOAD_SECONDS)
            sent = [images(count, seed=count) for count in (1, 2, 3, 5, 8, 21)]
            for _ in range(2):
                answers = await asyncio.gather(
                    *(
                        client.infer_images("image_values", recorded.version, pixels, timeout=20)
                        for pixels in sent
                    )
                )
                for pixels, answer in zip(sent, answers, strict=True):
                    np.testing.assert_allclose(answer, expected(1, pixels), rtol=1e-4, atol=1e-3)
            found = (await statistics(client, "image_values", inferences=40))["inference_stats"]
            # The second time every request is answered from the cache, each with its own vectors.
            assert found["cache_hit"]["count"] == len(sent)

    asyncio.run(run())


def test_equal_bytes_of_another_number_of_images_are_no_hit(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "image_shapes", seed=1)
    one, two = np.zeros_like(images(1)), np.zeros_like(images(2))

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("image_shapes", LOAD_SECONDS)
            for pixels in (one, two, one):
                got = await client.infer_images("image_shapes", recorded.version, pixels, timeout=5)
                assert got.shape[0] == len(pixels)

    asyncio.run(run())


@pytest.mark.parametrize("shape", [(1, 6, 4, 3), (1, 4, 6, 4), (1, 72)])
def test_an_image_of_another_size_is_refused_alone(triton: RunningTriton, shape: tuple[int, ...]) -> None:
    recorded = install(triton.repository, "image_sizes", seed=1)
    wrong = np.zeros(shape, np.uint8)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("image_sizes", LOAD_SECONDS)
            good = images(3)
            answers = await asyncio.gather(
                client.infer_images("image_sizes", recorded.version, good, timeout=5),
                client.infer_images("image_sizes", recorded.version, wrong, timeout=5),
                return_exceptions=True,
            )
            assert isinstance(answers[1], TritonError)
            assert not isinstance(answers[0], BaseException)
            np.testing.assert_allclose(answers[0], expected(1, good), rtol=1e-4, atol=1e-3)

    asyncio.run(run())
