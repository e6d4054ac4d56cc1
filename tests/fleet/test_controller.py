"""The controller over a real broker, on SQLite and on a real PostgreSQL, used through its own commands."""

from __future__ import annotations

import json

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from agent.cli.fleet import fleet_command
from agent.cli.fleet_api import FleetApi
from agent.errors import QeilError, StorageError
from agent.fleet import tables, tokens
from agent.fleet.controller import Controller
from agent.mqtt import signing_key
from agent.schema.fleet import FleetSettings
from agent.service.clock import SystemClock
from tests.broker import Broker
from tests.fleet.boards import Board
from tests.mqtt.signed import KEY, STRANGER, command_text, signed
from tests.mqtt.stack import until

pytestmark = pytest.mark.broker


class World:
    """Broker, controller, boards."""

    def __init__(self, folder, database: str) -> None:
        self.folder = folder
        self.database = database
        self.broker = Broker(folder)
        self.tokens: dict[str, str] = {}
        lines = []
        for role in tokens.ROLES:
            self.tokens[role], made = tokens.make(f"a-{role}", role, 0.0)
            lines.append(made.line())
        self.tokens["late"], expired = tokens.make("late", "admin", 1.0)
        (folder / "tokens").write_text("\n".join([*lines, expired.line()]) + "\n")
        (folder / "tokens").chmod(0o600)
        self.key = folder / "fleet.key"
        signing_key.save(KEY, self.key, None)
        self.boards: list[Board] = []
        self.controllers: list[Controller] = []
        self.begin("fleet-1")

    def begin(self, name: str) -> Controller:
        settings = {
            "version": 1, "name": name, "database": self.database, "trusted_keys": [KEY.public.text()],
            "mqtt": {"host": "127.0.0.1", "port": self.broker.port, "session_expiry_s": 3600, "max_inflight": 200},
            "http": {"port": 0, "tokens_file": str(self.folder / "tokens")},
        }  # fmt: skip
        made = Controller(FleetSettings.model_validate_json(json.dumps(settings)), SystemClock())
        made.start()
        self.controllers.append(made)
        until(lambda: made.link.connected)
        return made

    def board(self, name: str, **options) -> Board:
        made = Board(self.folder, self.broker.port, name, **options)
        self.boards.append(made)
        return made

    def api(self, role: str = "admin") -> FleetApi:
        return FleetApi(self.controllers[-1].url, self.tokens[role])

    def run(self, *arguments, role: str = "admin", code: int = 0) -> str:
        options = ["--url", self.controllers[-1].url, "--token", self.tokens[role]]
        result = CliRunner().invoke(fleet_command, [*map(str, arguments), *options])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def status(self, name: str) -> str | None:
        found = [b for b in self.api().get("/v1/boards") if b["board"] == name]
        return found[0]["status"] if found else None

    def stored(self) -> int:
        with self.controllers[-1].store.engine.connect() as db:
            return db.execute(select(func.count()).select_from(tables.rows)).scalar_one()

    def stop(self) -> None:
        for part in (*self.boards, *self.controllers):
            part.stop()
        self.broker.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request, tmp_path):
    database = f"sqlite:///{tmp_path}/fleet.db"
    if request.param == "postgresql":
        database = request.getfixturevalue("clean_postgres")
    made = World(tmp_path, database)
    yield made
    made.stop()


def test_boards_are_seen_their_rows_stored_and_acknowledged_and_commands_answered(world):
    board = world.board("b1")
    until(lambda: world.status("b1") == "online")
    for i in range(200):
        board.window(energy_j=float(i))
    until(lambda: world.stored() == 200)
    until(lambda: board.left() == 0)
    found = json.loads(world.run("ls", "profile=test*", "--json"))[0]
    assert (found["temperature_c"], found["provenance"], found["missing"]) == (51.5, "measured", 0)
    assert found["energy_j"] == pytest.approx(19.9)

    out = json.loads(world.run("exec", "board=b1", "restart-lane", "accelerator=npu", "--key", world.key, "--json"))
    assert out[0]["status"] == "ok"
    assert len([t for t, _ in board.requests if "cmd" in t]) == 1
    (world.folder / "d.yaml").write_text("policy: quiet\n")
    assert "ok" in world.run("apply", "", world.folder / "d.yaml", "--key", world.key)
    assert "balanced" in world.run("ls")
    assert "restart-lane" in world.run("show", "acme/b1", "--json")
    until(lambda: "command restart-lane ok" in world.run("show", "acme/b1"))  # the event comes by itself
    assert "last events, newest first:" in world.run("show", "acme/b1")
    assert json.loads(world.run("label", "acme/b1", "site=berlin", "x=y")) == {"site": "berlin", "x": "y"}
    assert json.loads(world.run("label", "acme/b1", "x-", role="operate")) == {"site": "berlin"}
    assert json.loads(world.run("ls", "site=berlin,!x", "--json"))[0]["board"] == "b1"
    assert "online ready balanced" in world.run("watch", "--rounds", 1, "--every", 0.2)
    audit = world.api().get("/v1/audit")
    assert {"labels", "command", "desired"} <= {entry["action"] for entry in audit}

    board.link.stop()
    until(lambda: world.status("b1") == "offline")


def test_a_killed_controller_and_a_killed_broker_lose_nothing(world):
    board = world.board("b1")
    for _ in range(50):
        board.window()
    until(lambda: world.stored() > 0)
    first = world.controllers.pop()
    first.link._stop.set()  # as a crash: nothing more is acknowledged
    for _ in range(50):
        board.window()
    world.broker.kill()
    for _ in range(50):
        board.window()
    world.broker.start()
    world.begin("fleet-2")
    until(lambda: world.stored() == 150)
    until(lambda: board.left() == 0)
    first.stop()
    assert world.stored() == 150


def test_two_controllers_share_the_boards_and_send_no_command_twice(world):
    world.begin("fleet-2")
    boards = [world.board(f"b{i}") for i in range(4)]
    until(lambda: len(world.api().get("/v1/boards", select="status=online")) == 4)
    for board in boards:
        for _ in range(50):
            board.window()
    until(lambda: world.stored() == 200)
    until(lambda: sum(c.consumer.counters["rows"] for c in world.controllers) == 200)  # counted after the commit
    assert "ok" in world.run("exec", "", "plan", "--key", world.key)
    assert [len([t for t, _ in b.requests if "cmd" in t]) for b in boards] == [1, 1, 1, 1]


def test_hostile_messages_are_refused_counted_and_named_and_other_boards_are_unaffected(world):
    good, bad = world.board("good"), world.board("bad")
    until(lambda: world.status("bad") == "online")
    base = "qeil/v1/acme/bad/up/"
    for topic, payload in (
        ("tlm/agent", b"{"), ("tlm/agent", b'{"v":2}'), ("tlm/agent", b'{"v":1,"cls":"evt"}'),
        ("tlm/agent", b'{"v":1,"cls":"tlm","boot":-1,"seq0":0,"rows":[{}]}'),
        ("tlm/agent", b'{"v":1,"cls":"tlm","boot":1,"seq0":1e3,"rows":[{}]}'),
        ("tlm/agent", b'{"v":1,"cls":"tlm","boot":1,"seq0":0,"rows":[1]}'),
        ("state", b'{"v":1,"online":"yes","boot":1,"conn":1}'), ("nonsense", b"{}"), ("state", b"[" * 9000),
        ("res/plan", b'{"v":1}'), ("tlm/agent", b'{"v":1,"cls":"tlm","boot":1,"seq0":0,"rows":[]}'),
    ):  # fmt: skip
        assert bad.link.send(base + topic, payload)
    good.window()
    consumer = world.controllers[-1].consumer
    until(lambda: consumer.counters["refused"] == 11)
    until(lambda: world.stored() == 1)
    until(lambda: sum(consumer.refused.values()) == 11)
    assert {board for board, _ in consumer.refused} == {"acme/bad"}
    headers = {"Authorization": f"Bearer {world.tokens['read']}"}
    text = httpx.get(world.controllers[-1].url + "/metrics", headers=headers).text
    assert 'qeil_fleet_refused_messages_total{board="acme/bad",code="malformed"} 2' in text


def test_tokens_say_who_may_what(world):
    world.board("b1")
    until(lambda: world.status("b1") == "online")
    assert world.api("read").get("/v1/boards")
    world.tokens["none"] = "guess"
    for role in ("late", "none"):
        with pytest.raises(QeilError, match="no good token"):
            world.api(role).get("/v1/boards")
    with pytest.raises(QeilError, match="takes operate"):
        world.api("read").put("/v1/boards/acme/b1/labels", {"labels": {}})
    with pytest.raises(QeilError, match="takes admin"):
        world.api("operate").get("/v1/audit")


def test_what_boards_would_not_take_is_not_carried(world):
    world.board("b1")
    until(lambda: world.status("b1") == "online")
    api = world.api()
    text = command_text("plan")

    def refused(message: dict) -> str:
        with pytest.raises(QeilError) as caught:
            api.post("/v1/messages", message)
        return caught.value.message

    assert "unknown_key" in refused(json.loads(signed(text, STRANGER)))
    changed = json.loads(signed(text))
    changed["doc"] = changed["doc"].replace("plan", "load")
    assert "bad_signature" in refused(changed)
    assert "no board" in refused(json.loads(signed(command_text("plan", board="b9"))))
    assert "doc" in refused({"v": 1})
    assert "neither" in refused(json.loads(signed('{"kind": "other"}')))
    first = json.loads(signed(text))
    assert api.post("/v1/messages", first) == api.post("/v1/messages", first)
    other = text.replace('"args": {}', '"args": {"a": 1}')
    assert "used once" in refused(json.loads(signed(other)))
    with pytest.raises(QeilError, match="no part of a selection"):
        api.get("/v1/boards", select="a b")
    with pytest.raises(QeilError, match="no board"):
        api.get("/v1/boards/acme/none")
    with pytest.raises(QeilError, match="number from 1"):
        api.get("/v1/boards/acme/b1/rows/tlm", limit=0)
    with pytest.raises(QeilError, match="tlm, evt or gap"):
        api.get("/v1/boards/acme/b1/rows/xyz")


def test_the_description_names_every_path_and_health_is_for_everybody(world):
    url = world.controllers[-1].url
    assert httpx.get(f"{url}/v1/health").json() == {"ok": True, "broker": True, "consumer": True, "database": True}
    paths = httpx.get(f"{url}/v1/openapi.json").json()["paths"]
    assert paths["/v1/rollouts/{id}/{action}"]["post"]["security"] == [{"token": []}]
    assert set(paths["/v1/boards/{tenant}/{board}/labels"]) == {"put"}


def test_retention_that_fails_is_tried_again_later_and_stops_nothing_else(world, monkeypatch):
    controller = world.controllers[0]
    tried = []

    def round_() -> int:
        tried.append(1)
        raise StorageError("permission denied for function qeil_keep_day")

    monkeypatch.setattr(controller.keeper, "round", round_)
    controller._keep_s = 0.0
    until(lambda: tried)
    until(lambda: controller._keep_s > controller._clock.monotonic_s() + 30.0)
    assert controller.alive()
    world.board("b1")
    until(lambda: world.status("b1") == "online")
    assert tried == [1]
