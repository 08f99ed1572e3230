"""What URIs may be, and what of them may be shown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components.download.config import DatasetConfig
from components.errors import ConfigurationError
from components.storage.uri import read_uri, shown_uri, without_secrets
from pipelines.preset_files import load_preset

SECRETS = [
    "https://me:s3cret@host/file.zip",
    "https://s3cret@host/file.zip",
    "https://host/file.zip?X-Amz-Algorithm=AWS4&X-Amz-Signature=s3cret",
    "https://host/file.zip?sv=2024&sig=s3cret",
    "https://host/file.zip?access_token=s3cret",
    "http://host/file.zip?download=1&apikey=s3cret",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_settings_hold_no_secrets(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="holds a password or a signature") as caught:
        load_preset("laptop", [f"data.source={json.dumps(uri)}"])
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        DatasetConfig.model_validate(
            {"source": "named://", "pretrain": {"annotations": "file:///a", "images": [{"uri": uri}]}}
        )
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/file.zip?download=true",
        "https://host/a%20b.zip",
        "hf://datasets/org/name@refs/pr/3/file.json",
        "s3://bucket/key?with=odd",
        "${DATA_URL}",
        "https://${USER}:${PASSWORD}@host/file.zip",
        "https://host/file.zip?sig=${SIGNATURE}",
    ],
)
def test_what_settings_may_hold(uri: str) -> None:
    assert DatasetConfig(source=uri).source == uri


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/data/my pictures", "write file:///data/my%20pictures"),
        ("./data", r"write file:///.*/data for"),
        ("liuhaotian/LLaVA-Pretrain", "hf://datasets/liuhaotian/LLaVA-Pretrain"),
        ("model", "file:///PATH"),
    ],
)
def test_a_setting_without_a_scheme_is_refused_at_once_with_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=rf"has no scheme: .*{meant}"):
        DatasetConfig(source=text)


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "s3cret")
    uri = read_uri("https://me:${PASSWORD}@host/a/file.zip?b=c", "data.source")
    assert (uri.full, uri.shown, uri.name) == (
        "https://me:s3cret@host/a/file.zip?b=c",
        "https://host/a/file.zip",
        "file.zip",
    )
    with pytest.raises(ConfigurationError, match=r"data\.source names the environment variable NOBODY_SET_THIS"):
        read_uri("${NOBODY_SET_THIS}", "data.source")


@pytest.mark.parametrize(
    "uri", ["", "/plain", "file", "file://relative", "file://host/a", "ftp://host/a", "https:///a", "s3://"]
)
def test_what_is_no_source(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.source is"):
        read_uri(uri, "data.source")


_WORD = st.text(st.sampled_from("abcdefXYZ0189-._~%"), min_size=6, max_size=12)


@given(user=_WORD, password=_WORD, key=_WORD, value=_WORD)
def test_secrets_never_show(user: str, password: str, key: str, value: str) -> None:
    url = f"https://{user}_u:{password}_p@host:8443/path/file.zip?{key}_k={value}_v#{value}_f"
    assert shown_uri(url) == "https://host:8443/path/file.zip"
    said = without_secrets(f"Max retries exceeded with url: {url} (Caused by x) and '{url}'")
    assert not any(f"{secret}" in said for secret in (f"{user}_u", f"{password}_p", f"{value}_v"))
