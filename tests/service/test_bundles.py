"""Bundles on a board of fakes: what is bad is refused, what is worse is reverted, whatever happens in between."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from agent.errors import StorageError
from agent.mqtt.inbound import Inbound
from agent.schema.bundle import Offer
from agent.storage import bundle_archive, state_file
from tests.mqtt.signed import STRANGER, signed
from tests.service.bundle_world import TOPICS, Board


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def codes(board) -> list[str]:
    return [r.code for r in board.refusals]


def test_a_bundle_that_is_no_worse_is_kept_and_a_start_brings_it_back(board):
    board.offer(3)
    assert (board.status, board.policy) == ("kept", "other")
    event = board.events[-1]
    assert (event["ver"], event["status"], event["figures"]["proven"]) == (3, "kept", True)
    assert abs(event["figures"]["energy"]["m"]) < 0.03
    assert [r["status"] for r in board.reports][-1] == "kept"
    board.boot().resume()
    assert board.policy == "other"


def test_a_fifth_more_joules_per_inference_is_reverted_before_the_trial_ends(board):
    board.costs["other"] = 0.2
    board.offer(3)
    assert (board.status, board.policy) == ("reverted", "own")
    event = board.events[-1]
    assert event["code"] == "worse_energy"
    assert event["figures"]["windows"] < 32
    assert "joules per inference" in event["message"]
    board.boot().resume()
    assert board.policy == "own"


def test_a_reverted_bundle_leaves_the_last_good_one_in_force(board):
    board.offer(1, "good")
    board.costs["bad"] = 0.5
    board.offer(2, "bad")
    assert (board.status, board.policy) == ("reverted", "good")
    board.boot().resume()
    assert board.policy == "good"
    assert board.bundles.record.kept_ver == 1


def test_what_is_slower_or_fails_more_is_reverted_too(board):
    board.slower["slow"] = 0.4
    board.offer(1, "slow")
    assert board.events[-1]["code"] == "worse_latency"
    board.failing.add("failing")
    board.offer(2, "failing")
    assert board.events[-1]["code"] == "worse_failures"
    assert board.policy == "own"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"state": "unavailable"}, "model_lost"), ({"accelerated_fraction": 0.4}, "less_accelerated")],
)
def test_what_is_plainly_broken_is_reverted_at_once(board, change, code):
    def break_it() -> None:
        if board.policy == "other":
            board.change(**change)

    board.on_time = break_it
    board.offer(1)
    assert (board.status, board.events[-1]["code"]) == ("reverted", code)


def test_hotter_accelerators_revert_it(board):
    def heat() -> None:
        hot_c = 64.0 if board.policy == "other" else 50.0
        lanes = (replace(board.snapshot.accelerators[0], temperature_c=hot_c),)
        board.snapshot = replace(board.snapshot, accelerators=lanes)

    board.on_time = heat
    board.offer(1)
    assert board.events[-1]["code"] == "worse_temperature"


def test_a_self_test_that_fails_reverts_it(board):
    board.probe_failure = "probe p: m: output y is off by 3"
    board.offer(1)
    assert (board.status, board.events[-1]["code"], board.policy) == ("reverted", "self_test", "own")


def test_what_cannot_be_placed_is_refused_and_the_old_one_serves(board):
    board.unplaceable.add("other")
    board.offer(1)
    assert (board.status, board.events[-1]["code"], board.policy) == ("refused", "not_placeable", "own")


def test_without_requests_it_is_kept_and_said_to_be_unproven(tmp_path):
    board = Board(tmp_path, requests_per_s=0.0)
    board.offer(1)
    assert board.status == "kept"
    assert board.events[-1]["figures"]["proven"] is False


def test_on_a_board_that_is_asked_now_and_then_it_is_compared_with_as_many_windows_as_on_a_busy_one(board):
    def now_and_then() -> None:
        board.rate = 10.0 if board.clock.monotonic_s() // 10.0 % 3 == 0 else 0.0

    board.on_time = now_and_then
    board.costs["other"] = 0.2
    board.offer(3)
    assert (board.status, board.events[-1]["code"], board.policy) == ("reverted", "worse_energy", "own")


# ---------------------------------------------------------------------- bad bundles


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tenant": "other"}, "wrong_board"), ({"boards": ["b2"]}, "wrong_board"),
        ({"profiles": ["jetson"]}, "wrong_board"), ({"min_agent": "9.0.0"}, "old_agent"),
        ({"iat": 1.0, "exp": 2.0}, "expired"), ({"iat": 1.79e9 + 9e5, "exp": 1.79e9 + 9.1e5}, "not_yet"),
        ({"bytes": 10**15}, "invalid"), ({"sha256": "zz"}, "invalid"),
        ({"kind": "command"}, "invalid"), ({"url": "ftp://x"}, "invalid"), ({"url": None}, "invalid"),
        ({"policy": None}, "invalid"), ({"trial": {"windows": 0}}, "invalid"), ({"extra": 1}, "invalid"),
        ({"exp": 9e9 * 10}, "invalid"), ({"min_agent": f"{'9' * 5000}.0.0"}, "invalid"),
    ],
)  # fmt: skip
def test_an_offer_that_is_not_for_this_board_now_is_refused_before_anything_is_fetched(board, fields, code):
    board.offer(5, **fields)
    assert codes(board) == [code]
    assert (board.status, board.bundles.record.ver, board.policy) == ("none", 0, "own")


def test_a_stranger_a_changed_byte_and_a_changed_comment_are_refused(board):
    board.offer(1, key=STRANGER)
    text = json.dumps(board.document(1))
    good = json.loads(signed(text))
    changes = [{"doc": text.replace('"ver": 1', '"ver": 2')}]
    changes += [{"sig": good["sig"].replace("test", comment)} for comment in ("tost", "\ud800")]
    for change in changes:
        board.send(json.dumps({**good, **change}).encode())
    board.send(b"{")
    board.send(text.encode())
    assert codes(board) == ["unknown_key", *2 * ["bad_signature"], "malformed_signature", "malformed", "unsigned"]
    assert board.status == "none"


def test_older_versions_and_reused_ones_are_refused_also_after_a_start(board):
    board.offer(7)
    board.offer(6, "third")
    board.boot().resume()
    board.offer(7, "fourth")
    board.offer(7)
    assert codes(board) == ["old_version", "version_reused", "version_reused"]
    assert board.policy == "other"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"policies/other.yaml": b"version: 1\n"}, "invalid"),
        ({"policies/else.yaml": b"\xff"}, "invalid"),
        ({"profiles/p.yaml": b"{}", "policies/other.yaml": b""}, "invalid"),
        ({"models/x.onnx": b"x"}, "invalid"),
    ],
)
def test_content_that_cannot_be_used_is_refused_before_it_comes_into_force(board, files, code):
    board.offer(1, files=files)
    assert (board.status, board.bundles.record.code, board.policy) == ("refused", code, "own")


def test_models_must_be_there_under_names_that_are_free(board):
    board.offer(1, files={"models/m.onnx": b"x"}, policy=None, models=["m"])
    assert board.bundles.record.code == "name_taken"
    board.offer(2, files={"models/n.onnx": b"x"}, policy=None, models=["o"])
    assert board.bundles.record.code == "invalid"
    board.serves("n")
    board.offer(3, files={"models/n.onnx": b"x"}, policy=None, models=["n"])
    assert board.status == "kept"
    assert [m.name for m in board.agent.layer.models] == ["n"]


@pytest.mark.parametrize(("change", "code"), [(b"", "wrong_digest"), (b"more", "wrong_size")])
def test_an_archive_that_is_not_the_signed_one_is_never_unpacked(board, change, code):
    document = board.document(1)
    path = board.folder / "other.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(bytes(content) + change)
    board.send(signed(json.dumps(document)))
    assert (board.status, board.bundles.record.code) == ("refused", code)
    assert not list((board.folder / "state" / "bundles").glob("[0-9a-f]*"))


def test_an_archive_that_cannot_be_had_is_refused_after_some_attempts(board):
    board.offer(1, url="http://127.0.0.1:9/none.tar")
    assert (board.status, board.bundles.record.code) == ("refused", "unreachable")


def test_an_address_that_is_none_refuses_it(board):
    board.offer(1, url="http://[::1/a.tar")
    assert (board.status, board.bundles.record.code) == ("refused", "invalid")


def test_a_policy_that_the_desired_state_sets_is_not_overruled(board):
    board.overruled = "the fleet's desired state (version 4) sets the policy"
    board.offer(1)
    assert (board.status, board.bundles.record.code, board.policy) == ("refused", "overruled", "own")


# ---------------------------------------------------------------------- time, power cuts, disks


def test_a_board_that_does_not_know_the_time_takes_the_offer_once_it_does(board):
    offset_s, board.clock.offset_s = board.clock.offset_s, 0.0
    document = board.document(1)
    document.update(iat=offset_s, exp=offset_s + 1e6)
    board.send(signed(json.dumps(document)))
    board.bundles.round()
    assert codes(board) == ["clock_unset"]
    board.clock.offset_s = offset_s
    board.bundles.round()
    assert board.status == "kept"


def test_an_offer_that_is_taken_back_before_the_time_is_known_is_not_taken_once_it_is(board):
    offset_s, board.clock.offset_s = board.clock.offset_s, 0.0
    document = board.document(1)
    document.update(iat=offset_s, exp=offset_s + 1e6)
    board.send(signed(json.dumps(document)))
    board.bundles.round()
    board.send(b"")
    board.bundles.round()
    board.clock.offset_s = offset_s
    board.bundles.round()
    assert (board.status, board.policy) == ("none", "own")


def test_it_waits_until_the_time_that_the_offer_names(board):
    begin_s = board.clock.wall_s()
    board.offer(1, not_before=begin_s + 5000)
    assert board.status == "kept"
    assert board.clock.wall_s() > begin_s + 5000
    board.offer(2, "late", not_before=board.clock.wall_s() + 50000)
    assert board.bundles.record.code == "expired"


@pytest.mark.parametrize("phase", ["fetching", "measuring"])
def test_a_power_cut_before_the_trial_begins_anew(board, phase):
    document = signed(json.dumps(board.document(1)))
    board.crash_at(phase)
    with pytest.raises(KeyboardInterrupt):
        board.send(document)
    assert board.policy == "own"
    board.on_time = lambda: None
    board.boot().resume()
    assert (board.status, board.policy) == ("kept", "other")


def test_a_power_cut_in_the_trial_goes_on_with_it_and_too_many_revert_it(board):
    payload = signed(json.dumps(board.document(1)))
    board.crash_at("trial")
    with pytest.raises(KeyboardInterrupt):
        board.send(payload)
    for _ in range(2):
        board.boot()
        with pytest.raises(KeyboardInterrupt):
            board.bundles.resume()
    board.boot().resume()
    assert (board.status, board.bundles.record.code, board.policy) == ("reverted", "crash_loop", "own")
    board.send(payload)
    assert board.refusals == []
    assert board.status == "reverted"


def test_a_start_in_the_trial_still_finds_what_is_worse(board):
    board.costs["other"] = 0.2
    board.crash_at("trial")
    with pytest.raises(KeyboardInterrupt):
        board.offer(1)
    board.on_time = lambda: None
    board.boot().resume()
    assert (board.status, board.bundles.record.code, board.policy) == ("reverted", "worse_energy", "own")


def test_a_newer_offer_ends_a_trial_and_is_tried_itself(board):
    newer = signed(json.dumps(board.document(2, "third")))

    def offer_it() -> None:
        if board.policy == "other" and board.bundles._latest is None:
            board.bundles.on_request(Inbound(TOPICS.bundle, newer, None, None, lambda: None))

    board.on_time = offer_it
    board.offer(1)
    assert (board.status, board.bundles.record.code, board.policy) == ("reverted", "superseded", "own")
    board.on_time = lambda: None
    board.bundles.round()
    assert (board.status, board.policy) == ("kept", "third")


def test_a_disk_that_takes_nothing_refuses_before_anything_is_tried(board, monkeypatch):
    def full(path, document):
        raise StorageError("disk full")

    monkeypatch.setattr(state_file, "write_json", full)
    board.offer(1)
    assert codes(board) == ["storage"]
    monkeypatch.undo()
    board.offer(1)
    assert board.status == "kept"


def test_a_full_disk_while_it_unpacks_refuses_it_and_leaves_nothing(board, monkeypatch):
    monkeypatch.setattr(bundle_archive, "RESERVE_BYTES", 2**60)
    board.offer(1)
    assert (board.status, board.bundles.record.code) == ("refused", "disk_full")
    assert [p.name for p in (board.folder / "state" / "bundles").iterdir()] == ["incoming"]
    assert list((board.folder / "state" / "bundles" / "incoming").iterdir()) == []


def test_a_kept_bundle_whose_files_are_gone_leaves_the_boards_own_in_force(board):
    board.offer(1)
    for path in (board.folder / "state" / "bundles").rglob("*.yaml"):
        path.unlink()
    board.boot().resume()
    assert board.policy == "own"
    assert board.events[-1]["status"] == "lost"


def test_a_damaged_record_is_an_error_at_the_beginning(board):
    state = board.folder / "state"
    state.mkdir()
    (state / "bundles.json").write_text('{"version": 9}')
    with pytest.raises(ValidationError):
        board.boot()


def test_old_bundles_leave_the_disk(board):
    for ver, name in enumerate(("one", "two", "three"), 1):
        board.offer(ver, name)
    assert len(list((board.folder / "state" / "bundles").glob("[0-9a-f]*"))) == 1


def test_an_offer_says_what_it_brings(board):
    assert Offer.model_validate(board.document(1)).trial.windows == 32
