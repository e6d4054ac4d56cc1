"""What `qeil infer` sends and shows: every datatype of the protocol, texts and bfloat16 included."""

from __future__ import annotations

import numpy as np
import pytest

from agent.api import tensors
from agent.cli import wire_tensors
from agent.cli.infer import random_inputs, read_inputs
from agent.errors import BadInput


@pytest.mark.parametrize("datatype", sorted(wire_tensors.NUMPY))
def test_random_inputs_of_every_datatype_are_what_the_server_reads_and_their_echo_is_shown(datatype):
    metadata = {"inputs": [{"name": "x", "datatype": datatype, "shape": [-1, 3]}]}
    sent = random_inputs(metadata)["x"]
    entry, raw = wire_tensors.encode("x", sent)
    shape = tensors.check_shape("x", entry["datatype"], entry["shape"])
    read = tensors.from_binary("x", entry["datatype"], shape, memoryview(raw))
    assert (entry["datatype"], tensors.datatype_of(read), read.shape) == (datatype, datatype, (1, 3))
    echo = {"name": "y", "datatype": datatype, "shape": [1, 3], "parameters": {"binary_data_size": len(raw)}}
    shown, end = wire_tensors.decode(echo, b"??" + raw, 2)
    assert end == 2 + len(raw)
    in_json = {"name": "y", "datatype": datatype, "shape": [1, 3], "data": tensors.to_json("y", read)}
    assert wire_tensors.decode(in_json, b"", 0)[0].tolist() == shown.tolist()


def test_numbers_of_a_file_become_bfloat16_where_the_model_wants_it(tmp_path):
    metadata = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [2]}]}
    np.save(tmp_path / "x.npy", np.array([1.0, -2.5]))
    np.savez(tmp_path / "x.npz", x=np.array([1.0, -2.5]))
    (tmp_path / "x.json").write_text('{"x": [1, -2.5]}')
    for name in ("x.npy", "x.npz", "x.json"):
        entry, raw = wire_tensors.encode("x", read_inputs(tmp_path / name, metadata)["x"])
        assert (entry["datatype"], raw) == ("BF16", bytes.fromhex("803f20c0"))


def test_a_file_of_the_other_byte_order_is_sent_in_the_order_of_the_protocol():
    little, big = (wire_tensors.encode("x", np.array([1.0, -2.5], order)) for order in ("<f4", ">f4"))
    assert big == little


def test_a_type_that_no_model_takes_is_refused_by_name():
    with pytest.raises(BadInput, match="input 'x': no model takes complex128"):
        wire_tensors.encode("x", np.zeros(2, complex))
