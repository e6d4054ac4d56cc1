"""What leaves the board in an archive holds no secret, whatever it is called and wherever in a URL it stands."""

import pytest

from agent.service.doctor.redaction import redacted, redacted_text


@pytest.mark.parametrize(
    "text",
    [
        "https://PLANTED@collector/v1/metrics",
        "https://user:PLANTED/with-slash@collector/v1",
        "https://collector/v1?access_token=PLANTED",
        "https://storage/v1?a=1&sig=PLANTED",
        "x-api-key: PLANTED",
        "api_key=PLANTED",
        "client_secret=PLANTED",
        "AWS_SECRET_ACCESS_KEY = 'PLANTED'",
        'password="two PLANTED words"',
        "Authorization: Bearer PLANTED12345",
        "-----BEGIN PRIVATE KEY-----\nPLANTED\n-----END PRIVATE KEY-----",
    ],
)
def test_a_secret_in_a_text_is_taken_out(text):
    assert "PLANTED" not in redacted_text(f"before {text} after")


def test_a_secret_under_a_telling_key_is_taken_out_at_any_depth():
    assert "PLANTED" not in str(redacted({"a": [{"x-api-key": "PLANTED", "mqttPassword": "PLANTED"}]}))


def test_counts_of_tokens_and_places_of_secrets_stay():
    kept = {
        "max_tokens": 40,
        "api_key_file": "/etc/qeil/key",
        "note": "max_tokens: 40, tokens=3, a token",
    }
    assert redacted(kept) == kept
