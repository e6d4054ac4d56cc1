"""The page's files as they leave the server; what a browser makes of them is tested in a browser."""

from __future__ import annotations

import gzip
import re
from importlib import resources

import httpx
import pytest

from agent.api.server import HttpServer
from agent.schema.settings import HttpSettings

MAX_TRANSFERRED_BYTES = 250_000
FILES = sorted(entry.name for entry in resources.files("agent.api").joinpath("static").iterdir())


class FakeInsight:
    def __init__(self):
        self.asked = []

    def overview(self, after_point, after_event):
        self.asked.append((after_point, after_event))
        return {"points": [], "filler": "x" * 2000}


@pytest.fixture
def insightful(service):
    insight = FakeInsight()
    server = HttpServer(service, HttpSettings(port=0), insight=insight)
    server.start()
    yield server.url, insight
    server.stop(2.0)


def test_the_page_and_its_files_load_nothing_from_elsewhere(http):
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in FILES:
        file = http.get(f"/dashboard/{name}")
        assert file.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.text), name
        assert "innerHTML" not in file.text, name
    asked = set(re.findall(r'(?:src|href)="dashboard/([^"]+)"', page.text))
    imported = {
        name for file in FILES for name in re.findall(r'from "\./([^"]+)"', http.get(f"/dashboard/{file}").text)
    }
    assert asked | imported | {"index.html"} == set(FILES)


def test_the_page_is_small_and_compressed(http):
    sizes = 0
    for name in FILES:
        response = http.get(f"/dashboard/{name}", headers={"accept-encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        sizes += int(response.headers["content-length"])
        assert "content-encoding" not in http.get(f"/dashboard/{name}", headers={"accept-encoding": "br"}).headers
    assert sizes < MAX_TRANSFERRED_BYTES


def test_a_file_that_did_not_change_is_not_sent_again(http):
    first = http.get("/dashboard/chart.js")
    again = http.get("/dashboard/chart.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_other_files_of_the_package_are_not_served(http):
    for name in ("dashboard.py", "..%2Fapp.py", "nothing.js"):
        assert http.get(f"/dashboard/{name}").status_code == 404


def test_the_overview_comes_from_where_the_reader_was(insightful, http):
    url, insight = insightful
    response = httpx.get(f"{url}/overview?points=12&events=3")
    assert response.json()["points"] == []
    assert response.headers["content-encoding"] == "gzip"
    httpx.get(f"{url}/overview", headers={"accept-encoding": "identity"})
    assert insight.asked == [(12, 3), (0, 0)]


@pytest.mark.parametrize("query", ["points=-1", "events=x", "points=1e3", "points=" + "9" * 16, "events=١"])
def test_a_number_that_is_none_is_refused(insightful, query):
    response = httpx.get(f"{insightful[0]}/overview?{query}")
    assert response.status_code == 400
    assert "number of the last one seen" in response.json()["error"]


def test_a_server_without_history_says_so(http):
    assert http.get("/overview").status_code == 404


def test_the_page_is_open_but_the_figures_need_the_key(service, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 32)
    server = HttpServer(service, HttpSettings(port=0, api_key_file=key), insight=FakeInsight())
    server.start()
    try:
        assert httpx.get(f"{server.url}/").status_code == 200
        assert httpx.get(f"{server.url}/dashboard/link.js").status_code == 200
        assert httpx.get(f"{server.url}/overview").status_code == 401
        assert httpx.get(f"{server.url}/overview", headers={"x-api-key": "k" * 32}).status_code == 200
    finally:
        server.stop(2.0)


def test_compressed_files_are_the_files(http):
    for name in FILES:
        with http.stream("GET", f"/dashboard/{name}", headers={"accept-encoding": "gzip"}) as response:
            raw = b"".join(response.iter_raw())
        assert gzip.decompress(raw) == resources.files("agent.api").joinpath("static", name).read_bytes()
