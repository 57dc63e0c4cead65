"""What cannot be embedded is refused with its index and reason, and disturbs nothing else."""

import base64
import threading
import time

import httpx
import pytest

from tests.conftest import Server
from tests.support.converted_models import CLIP
from tests.support.hostile_host import REDIRECTS, HostileHost
from tests.support.pictures import PICTURES, huge_png

GOOD = "data:image/png;base64," + base64.b64encode(PICTURES["png"]()).decode()


def refused(client: httpx.Client, image: object, **fields: object) -> tuple[int, str]:
    answer = client.post("/infer_image", json={"model_name": CLIP, "image": image, **fields})
    assert answer.status_code != 200
    detail = answer.json()["detail"]
    assert "\n" not in detail
    return answer.status_code, detail


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGES = {
    "nothing": ("", 422, "no bytes"),
    "base64 of nothing": ("data:image/png;base64,", 422, "no bytes"),
    "not base64": ("a picture: of a dog!", 422, "base64"),
    "no image": (b64(b"hello, this is text"), 422, "not an image of a known format"),
    "cut jpeg": (b64(PICTURES["jpeg"]()[:-700]), 422, "cut short"),
    "bomb": (b64(huge_png(50_000, 50_000)), 413, "64000000 pixels"),
    "too many bytes": (b64(bytes(2 << 20)), 413, "more than 1048576 bytes"),
    "unknown scheme": ("ftp://example.com/a.png", 422, "scheme"),
    "file": ("file:///etc/passwd", 422, "scheme"),
    "credentials": ("http://user:secret@127.0.0.2/a.png", 422, "credentials"),
    "loopback": ("http://127.0.0.1/a.png", 422, "not a public one"),
    "a name of loopback": ("http://localhost/a.png", 422, "not a public one"),
    "metadata": ("http://169.254.169.254/latest/", 422, "not a public one"),
    "decimal": ("http://2130706433/a.png", 422, "not a public one"),
    "ipv6": ("http://[::ffff:127.0.0.1]/a.png", 422, "not a public one"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_image_is_named_by_its_index(api: httpx.Client, name: str) -> None:
    image, status, reason = IMAGES[name]
    got, detail = refused(api, [GOOD, image, GOOD])
    assert got == status
    assert detail.startswith("image.1: ")
    assert reason in detail
    assert "secret" not in detail


PATHS = {
    "/missing": (422, "404"),
    "/page": (422, "not an image"),
    "/cut-jpeg": (422, "cut short"),
    "/bomb": (413, "64000000 pixels"),
    "/empty": (422, "no bytes"),
    "/endless": (413, "more than"),
    "/long": (413, "more than"),
    "/gzip-bomb": (413, "more than"),
    "/trickle": (422, "longer than 3 s"),
    "/silence": (422, "longer than 3 s"),
    "/hang-up": (422, "HTTP"),
    "/half": (422, "HTTP"),
    "/not-http": (422, "HTTP"),
    **{path: (422, "") for path in REDIRECTS if path not in ("/once", "/twice")},
}


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_url_is_named_with_its_reason(
    api: httpx.Client, hosts: tuple[HostileHost, HostileHost], path: str
) -> None:
    allowed, forbidden = hosts
    status, reason = PATHS[path]
    got, detail = refused(api, [GOOD, GOOD, f"{allowed.url}{path}?signature=secret"])
    assert got == status
    assert detail.startswith(f"image.2: {allowed.url}{path}")
    assert reason in detail
    assert "secret" not in detail
    assert forbidden.paths == []


def test_other_requests_are_not_touched_by_hostile_hosts(clip_server: Server, host: HostileHost) -> None:
    """While twelve requests wait for hosts that never finish, others are answered."""
    answers: list[int] = []

    def slow(path: str) -> None:
        with clip_server.client() as client:
            answers.append(refused(client, [f"{host.url}{path}"] * 4)[0])

    threads = [threading.Thread(target=slow, args=(path,)) for path in ("/trickle", "/silence") * 6]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    with clip_server.client() as client:
        answered = 0
        while not answers:
            body = {"model_name": CLIP, "text": "a dog", "image": GOOD}
            assert client.post("/infer", json=body).status_code == 200
            answered += 1
    assert answered > 5
    for thread in threads:
        thread.join()
    assert answers == [422] * 12


def test_a_thousand_images_are_a_thousand_vectors(api: httpx.Client) -> None:
    answer = api.post("/infer_image", json={"model_name": CLIP, "image": [GOOD] * 1000})
    assert answer.status_code == 200
    assert len(answer.json()["embedding"]) == 1000


def test_more_images_than_the_limit_are_refused(api: httpx.Client) -> None:
    got, detail = refused(api, ["QQ=="] * 5000)
    assert got == 413
    assert "5000 images" in detail


def test_a_text_model_asked_for_images(api: httpx.Client) -> None:
    for route in ("/infer", "/infer_image"):
        answer = api.post(route, json={"model_name": "tiny/static", "image": GOOD})
        assert answer.status_code == 422
        assert "embeds text only" in answer.json()["detail"]


def test_an_image_beside_a_text_for_a_text_model(api: httpx.Client) -> None:
    answer = api.post("/infer", json={"model_name": "tiny/static", "text": "a", "image": GOOD})
    assert answer.status_code == 422
    assert "embeds text only" in answer.json()["detail"]


def test_a_bad_image_fails_the_text_beside_it(api: httpx.Client) -> None:
    answer = api.post("/infer", json={"model_name": CLIP, "text": "a", "image": [GOOD, "!"]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("image.1: ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"model_name": CLIP}, "image: Field required"),
        ({"model_name": CLIP, "image": []}, "image: an empty list"),
        ({"model_name": CLIP, "image": [5]}, "image.0: "),
        ({"model_name": CLIP, "image": {"url": "a"}}, "image: "),
        ({"model_name": CLIP, "pretrained": "openai", "image": GOOD}, "pretrained"),
        ({"model_name": "ViT-B-32", "pretrained": "../../etc/passwd", "image": GOOD}, "pretrained"),
        ({"model_name": "owner/name", "pretrained": "a", "image": GOOD}, "model_name"),
        ({"model_name": "hf-hub:../../etc", "image": GOOD}, "model_name"),
        ({"model_name": "local-dir:/etc", "image": GOOD}, "model_name"),
    ],
)
def test_a_body_that_does_not_fit(api: httpx.Client, body: dict[str, object], reason: str) -> None:
    answer = api.post("/infer_image", json=body)
    assert answer.status_code == 422, answer.text
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"model_name": "ViT-B-32", "pretrained": "openai"},
        {"model_name": "hf-hub:no/such"},
        {"model_name": "static", "pretrained": "a"},
    ],
)
def test_a_clip_model_that_is_not_loaded(api: httpx.Client, body: dict[str, str]) -> None:
    answer = api.post("/infer", json={**body, "image": GOOD})
    assert answer.status_code == 404
    assert "/load_clip_model" in answer.json()["detail"]
