"""An unmodified tritonclient against the server over a real socket."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of gevent, which the client brings
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(server, service):
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def tensor(values, datatype, binary=True):
    made = triton.InferInput("x", list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


X = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)


def test_liveness_and_readiness_follow_the_service(client, service):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("add1")
    assert client.is_model_ready("add1", "1")
    client.unload_model("add1")
    assert not client.is_model_ready("add1")
    assert not client.is_server_ready()
    client.load_model("add1")
    assert client.is_server_ready()
    service.is_live = False
    assert not client.is_server_live()


def test_metadata_names_inputs_and_outputs(client):
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("add1")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_config("text")["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [-1]}]


def test_the_repository_lists_every_model_with_its_state(client):
    client.unload_model("half")
    rows = {row["name"]: row for row in client.get_model_repository_index()}
    assert rows["add1"]["state"] == "READY"
    assert rows["half"] == {"name": "half", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_mixture_of_json_and_binary_gives_the_same_answer(client, binary_in, binary_out):
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("add1", [tensor(X, "FP32", binary_in)], outputs=wanted, request_id="r-7")
    np.testing.assert_array_equal(result.as_numpy("y"), X + 1)
    response = result.get_response()
    assert response["id"] == "r-7"
    assert response["model_name"] == "add1"
    assert ("data" in response["outputs"][0]) != binary_out


def test_the_answer_says_what_it_cost(client):
    parameters = client.infer("add1", [tensor(X, "FP32")]).get_response()["parameters"]
    assert parameters == {
        "energy_j": None, "provenance": "unknown", "placement": "cpu", "provider": "CPUExecutionProvider",
        "accelerated_fraction": 1.0, "execute_ms": 0.25, "policy_digest": "d1", "replays": 2,
    }  # fmt: skip


@pytest.mark.parametrize("binary", [True, False])
def test_bytes_tensors_travel_both_ways(client, binary):
    words = np.array([b"", "é".encode(), b"long" * 1000], object)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("text", [tensor(words, "BYTES", binary)], outputs=wanted)
    assert [element if binary else element.encode() for element in result.as_numpy("y")] == [w + b"1" for w in words]


@pytest.mark.parametrize(
    ("model", "datatype", "values"),
    [
        ("ints", "INT64", np.array([-(2**63), 2**62], np.int64)),
        ("half", "FP16", np.array([0.5, -2], np.float16)),
        ("flags", "BOOL", np.array([True, False, True])),
    ],
)
def test_other_datatypes_arrive_bit_for_bit(client, model, datatype, values):
    result = client.infer(model, [tensor(values, datatype)])
    expected = ~values if datatype == "BOOL" else values + values.dtype.type(1)
    np.testing.assert_array_equal(result.as_numpy("y"), expected)


@pytest.mark.parametrize("binary_out", [True, False])
def test_bfloat16_travels_both_ways(client, binary_out):
    own = pytest.importorskip("ml_dtypes").bfloat16  # older clients cut float32 themselves
    values = np.array([0.5, -2.0, 100.0], np.float32)
    try:
        sent = tensor(values.astype(own), "BF16")
    except InferenceServerException:
        sent = tensor(values, "BF16")
    wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("brain", [sent], outputs=wanted)
    assert result.get_output("y")["datatype"] == "BF16"
    given = result.as_numpy("y").astype(np.float32).tolist() if binary_out else result.get_output("y")["data"]
    assert given == [1.5, -1.0, 101.0]


@pytest.mark.parametrize("method", ["gzip", "deflate"])
def test_compressed_requests_and_answers(client, method):
    big = np.zeros((1, 5000), np.float32)
    result = client.infer(
        "wide", [tensor(big, "FP32")], request_compression_algorithm=method, response_compression_algorithm=method
    )
    np.testing.assert_array_equal(result.as_numpy("y"), big + 1)


def test_a_wrong_shape_is_answered_with_the_expected_one(client):
    with pytest.raises(InferenceServerException, match=r"expected FP32 \[-1, 4\]") as caught:
        client.infer("add1", [tensor(X[:, :3].copy(), "FP32")])
    assert caught.value.status() == "400"


def test_an_unknown_model_is_answered_with_the_nearest_name(client):
    with pytest.raises(InferenceServerException, match="did you mean 'add1'"):
        client.infer("ad1", [tensor(X, "FP32")])
    with pytest.raises(InferenceServerException, match="no version '9'"):
        client.infer("add1", [tensor(X, "FP32")], model_version="9")


def test_asynchronous_requests_overlap(client):
    answers = [client.async_infer("add1", [tensor(X + i, "FP32")]) for i in range(5)]
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.get_result().as_numpy("y"), X + i + 1)


def test_timeout_and_placement_reach_the_service(client, service):
    client.infer("add1", [tensor(X, "FP32")], timeout=2_500_000, parameters={"placement": "gpu0"})
    assert service.requests[-1].deadline_s == 2.5
    assert service.requests[-1].placement == "gpu0"


def test_features_that_we_lack_are_refused_in_words(client):
    with pytest.raises(InferenceServerException, match="classification is not offered"):
        client.infer("add1", [tensor(X, "FP32")], outputs=[triton.InferRequestedOutput("y", class_count=3)])
    with pytest.raises(InferenceServerException, match="state between requests"):
        client.infer("add1", [tensor(X, "FP32")], sequence_id=5)
