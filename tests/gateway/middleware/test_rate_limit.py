"""How many requests a caller may send."""

import pytest

from gateway.middleware.rate_limit import RateLimit, network_of
from tests.support.app_without_triton import asking, bearer


def test_a_rate_is_a_bucket_for_each_caller() -> None:
    rate = RateLimit(5)
    assert [rate.take("a", 100.0) for _ in range(5)] == [0] * 5
    assert rate.take("a", 100.0) == pytest.approx(0.2)
    assert rate.take("b", 100.0) == 0
    assert rate.take("a", 100.2) == 0
    assert rate.take("a", 100.2) > 0
    # A pause fills the bucket, and no more than that.
    assert [rate.take("a", 200.0) > 0 for _ in range(7)] == [False] * 5 + [True] * 2


def test_a_rate_below_one_a_second_lets_one_in() -> None:
    rate = RateLimit(0.25)
    assert rate.take("a", 100.0) == 0
    assert rate.take("a", 103.0) == pytest.approx(1)
    assert rate.take("a", 104.0) == 0


def test_callers_of_long_ago_are_forgotten() -> None:
    rate = RateLimit(10)
    for number in range(50_000):
        rate.take(f"caller {number}", number * 0.001)
    assert len(rate._full_at) <= 20_000


def test_an_ipv6_host_is_one_caller() -> None:
    assert network_of(("2001:db8::1", 1)) == network_of(("2001:db8::ffff:2", 2))
    assert network_of(("2001:db8::1", 1)) != network_of(("2001:db8:0:1::1", 1))
    assert network_of(("::ffff:192.0.2.1", 1)) == network_of(("192.0.2.1", 1)) == "192.0.2.1"
    assert network_of(None) == ""


def test_a_rate_is_kept_by_key_and_health_is_free() -> None:
    client = asking(api_keys="e,f", rate_limit=0.01)
    assert client.post("/infer", content="{}", headers=bearer("e")).status_code == 422
    refused = client.post("/infer", content="{}", headers=bearer("e"))
    assert refused.status_code == 429
    assert 1 < int(refused.headers["retry-after"]) <= 100
    assert "0.01 requests a second" in refused.json()["detail"]
    assert client.post("/infer", content="{}", headers=bearer("f")).status_code == 422
    # Guesses at keys are counted by the address.
    guesses = [client.get("/loaded_models", headers=bearer(key)) for key in ("x", "y")]
    assert [guess.status_code for guess in guesses] == [401, 429]
    for _ in range(3):
        assert client.get("/health/live").status_code == 200


def test_a_refusal_is_in_the_words_of_each_api() -> None:
    client = asking(rate_limit=0.01, admin_api_keys="a")
    client.get("/nothing")
    for path, of in (("/v1/models", "code"), ("/tei/m/info", "error_type")):
        refused = client.get(path)
        assert refused.status_code == 429
        body = refused.json()
        assert (body.get("error") if of == "code" else body)[of] == (
            "rate_limited" if of == "code" else "Overloaded"
        )
        assert int(refused.headers["retry-after"]) > 0
