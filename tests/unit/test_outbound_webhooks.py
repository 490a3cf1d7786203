import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from common.outbound.webhooks import new_secret, sign

BODY = '{"type":"job.succeeded","name":"Für alle"}'.encode()

# A constant: what a test is called must be the same in every process that collects it.
SECRET = "whsec_" + "A" * 43 + "="


def test_a_signature_verifies_and_a_changed_message_does_not() -> None:
    secret = new_secret()
    headers = sign(secret, "msg_1", datetime.now(UTC), BODY)
    assert Webhook(secret).verify(BODY, headers) == {"type": "job.succeeded", "name": "Für alle"}
    for body, changed in [
        (BODY + b" ", headers),
        (BODY, {**headers, "webhook-id": "msg_2"}),
        (BODY, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
        (BODY, sign(new_secret(), "msg_1", datetime.now(UTC), BODY)),
    ]:
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, changed)


def test_the_example_of_the_specification() -> None:
    headers = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_replaced_both_verify() -> None:
    old, new = new_secret(), new_secret()
    headers = sign([new, old], "msg_1", datetime.now(UTC), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


def test_a_timestamp_of_another_zone_is_the_same_moment() -> None:
    secret, now = new_secret(), datetime.now(UTC)
    elsewhere = now.astimezone(timezone(timedelta(hours=-7)))
    headers = sign(secret, "msg_1", elsewhere, BODY)
    assert headers == sign(secret, "msg_1", now, BODY)
    Webhook(secret).verify(BODY, headers)


def test_secrets_are_fresh_and_as_long_as_the_specification_asks() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


@pytest.mark.parametrize(
    ("secrets", "message_id", "moment"),
    [
        ([], "msg_1", datetime.now(UTC)),
        (SECRET, "", datetime.now(UTC)),
        (SECRET, "msg.1", datetime.now(UTC)),
        (SECRET, "msg_1", datetime(2026, 1, 1)),  # noqa: DTZ001
    ],
)
def test_what_cannot_be_signed(secrets: str | list[str], message_id: str, moment: datetime) -> None:
    with pytest.raises(ValueError, match=r"secret|message id|zone"):
        sign(secrets, message_id, moment, BODY)
