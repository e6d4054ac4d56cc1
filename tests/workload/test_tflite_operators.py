"""Single TFLite operators against their closed forms."""

from __future__ import annotations

import pytest
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelLoadFailed
from agent.workload import tflite_graph
from agent.workload.stages import split
from tests.workload.tflite_files import File


def stage_of(file: File, tmp_path, inputs: list[int], outputs: list[int], batch: int = 1):
    path = file.save(tmp_path / "m.tflite", inputs, outputs)
    graph = tflite_graph.read(tflite_graph.load(path), batch)
    return graph, split(graph, 1)[0]


def one(tmp_path, name: str, inputs, output, options=None, dtype="float32"):
    """A single operator; each input is (shape, type, constant)."""
    file = File()
    numbers = [file.tensor(*i) if i is not None else -1 for i in inputs]
    result = file.tensor(output, dtype)
    file.operator(name, numbers, [result], options)
    moving = [n for n, i in zip(numbers, inputs, strict=True) if i is not None and not i[2]]
    return stage_of(file, tmp_path, moving, [result])


def work(stage) -> dict[tuple[str, str], float]:
    return {(w.family, w.precision): w.flops for w in stage.work}


def test_integer_weights_of_a_float_layer_are_multiplied_as_integers(tmp_path):
    _, stage = one(tmp_path, "FULLY_CONNECTED", [((4, 8), "float32", False), ((16, 8), "int8", True)], (4, 16))

    assert work(stage) == {("gemm", "int8"): 2 * 4 * 16 * 8}
    assert stage.weight_bytes == 16 * 8


def test_an_integer_convolution_is_int8_and_moves_bytes(tmp_path):
    inputs = [((1, 4, 4, 3), "int8", False), ((6, 3, 3, 3), "int8", True)]
    _, stage = one(tmp_path, "CONV_2D", inputs, (1, 4, 4, 6), dtype="int8")

    assert work(stage) == {("conv", "int8"): 2 * 16 * 6 * 27}
    assert stage.activation_bytes == 16 * 3 + 16 * 6


def test_a_transposed_convolution_counts_each_input_element(tmp_path):
    inputs = [((4,), "int32", True), ((6, 2, 2, 3), "float32", True), ((1, 5, 5, 3), "float32", False)]
    _, stage = one(tmp_path, "TRANSPOSE_CONV", inputs, (1, 10, 10, 6))

    assert work(stage) == {("conv", "fp32"): 2 * 25 * 3 * 6 * 4}


def test_batched_products_around_a_softmax_are_attention(tmp_path):
    file = File()
    q, k, v = (file.tensor((4, 6, 8)) for _ in range(3))
    scores, shares, seen = file.tensor((4, 6, 6)), file.tensor((4, 6, 6)), file.tensor((4, 6, 8))
    options = schema.BatchMatMulOptionsT()
    options.adjY = True
    file.operator("BATCH_MATMUL", [q, k], [scores], options)
    file.operator("SOFTMAX", [scores], [shares])
    file.operator("BATCH_MATMUL", [shares, v], [seen])
    _, stage = stage_of(file, tmp_path, [q, k, v], [seen])

    assert work(stage) == {("attention", "fp32"): 2 * 2 * 4 * 36 * 8 + 5 * 4 * 36}


def test_a_batched_product_alone_is_a_matrix_product_of_its_inner_length(tmp_path):
    options = schema.BatchMatMulOptionsT()
    options.adjX = True
    inputs = [((2, 8, 6), "float32", False), ((2, 8, 5), "float32", False)]
    _, stage = one(tmp_path, "BATCH_MATMUL", inputs, (2, 6, 5), options)

    assert work(stage) == {("gemm", "fp32"): 2 * 2 * 6 * 5 * 8}


def test_a_softmax_alone_is_elementwise(tmp_path):
    _, stage = one(tmp_path, "SOFTMAX", [((1, 10), "float32", False)], (1, 10))

    assert work(stage) == {("elementwise", "fp32"): 50}


def test_an_lstm_multiplies_every_matrix_once_per_step(tmp_path):
    matrices = [((8, 6), "float32", True)] * 4 + [((8, 8), "float32", True)] * 4
    _, stage = one(tmp_path, "UNIDIRECTIONAL_SEQUENCE_LSTM", [((1, 10, 6), "float32", False), *matrices], (1, 10, 8))

    assert work(stage) == {("gemm", "fp32"): 2 * 10 * 4 * (8 * 6 + 8 * 8)}


def test_a_recurrent_layer_multiplies_inputs_and_state(tmp_path):
    inputs = [((3, 6), "float32", False), ((8, 6), "float32", True), ((8, 8), "float32", True)]
    _, stage = one(tmp_path, "RNN", inputs, (3, 8))

    assert work(stage) == {("gemm", "fp32"): 2 * 3 * (48 + 64)}


@pytest.mark.parametrize(("name", "order"), [("GATHER", (0, 1)), ("EMBEDDING_LOOKUP", (1, 0))])
def test_a_lookup_touches_the_rows_it_takes(tmp_path, name, order):
    both = [((100, 8), "float32", True), ((4,), "int32", False)]
    _, stage = one(tmp_path, name, [both[i] for i in order], (4, 8))

    assert (stage.weight_bytes, stage.idle_weight_bytes) == (4 * 8 * 4, 96 * 8 * 4)


def test_a_lookup_in_an_activation_reads_what_it_writes(tmp_path):
    _, stage = one(tmp_path, "GATHER", [((100, 8), "float32", False), ((4,), "int32", True)], (4, 8))

    assert stage.activation_bytes == 2 * 4 * 8 * 4


def test_pooling_counts_its_window(tmp_path):
    options = schema.Pool2DOptionsT()
    options.filterWidth, options.filterHeight = 3, 2
    _, stage = one(tmp_path, "MAX_POOL_2D", [((1, 6, 6, 4), "float32", False)], (1, 3, 3, 4), options)

    assert work(stage) == {("elementwise", "fp32"): 36 * 6}


def test_slices_read_what_they_write_and_views_move_nothing(tmp_path):
    _, stage = one(tmp_path, "SLICE", [((100, 8), "float32", False)], (4, 8))
    assert stage.activation_bytes == 2 * 4 * 8 * 4
    assert work(stage) == {}

    _, stage = one(tmp_path, "RESHAPE", [((4, 8), "float32", False)], (32,))
    assert stage.activation_bytes == 0


def test_sums_of_many_tensors_count_each_addition(tmp_path):
    _, stage = one(tmp_path, "ADD_N", [((4, 8), "float32", False)] * 3, (4, 8))

    assert work(stage) == {("elementwise", "fp32"): 2 * 32}


def test_sixteen_bit_activations_count_as_integers(tmp_path):
    _, stage = one(tmp_path, "ADD", [((4,), "int16", False)] * 2, (4,), dtype="int16")

    assert work(stage) == {("elementwise", "int8"): 4}


@pytest.mark.parametrize("name", ["my.custom.op", "STABLEHLO_CASE"])
def test_an_unknown_operator_is_estimated_and_named(tmp_path, name):
    graph, stage = one(tmp_path, name, [((4, 8), "float32", False)], (4, 8))

    assert work(stage) == {("elementwise", "fp32"): 32}
    assert graph.notes == (f"{name} is not in the table, counted as elementwise",)


def test_a_free_batch_takes_the_size_that_is_asked_for(tmp_path):
    file = File()
    x, y = file.tensor((1, 8), free=True), file.tensor((1, 8), free=True)
    file.operator("TANH", [x], [y])
    graph, stage = stage_of(file, tmp_path, [x], [y], batch=5)

    assert work(stage) == {("elementwise", "fp32"): 40}
    assert graph.input_specs[0].shape == (-1, 8)


def test_a_missing_optional_input_is_no_tensor(tmp_path):
    inputs = [((4, 8), "float32", False), ((16, 8), "float32", True), None]
    _, stage = one(tmp_path, "FULLY_CONNECTED", inputs, (4, 16))

    assert stage.weight_bytes == 16 * 8 * 4


def test_a_tensor_that_does_not_exist_is_damage(tmp_path):
    file = File()
    x = file.tensor((4,))
    file.operator("TANH", [x], [99])

    with pytest.raises(ModelLoadFailed, match="tensor 99 does not exist"):
        stage_of(file, tmp_path, [x], [x])


def test_an_operator_without_a_code_is_damage(tmp_path):
    file = File()
    x, y = file.tensor((4,)), file.tensor((4,))
    file.operator("TANH", [x], [y])
    file.graph.operators[0].opcodeIndex = 7

    with pytest.raises(ModelLoadFailed, match="code 7 does not exist"):
        stage_of(file, tmp_path, [x], [y])


def test_tensors_of_the_wrong_shape_are_damage(tmp_path):
    with pytest.raises(ModelLoadFailed, match="wrong number or shape"):
        one(tmp_path, "UNIDIRECTIONAL_SEQUENCE_LSTM", [((), "float32", False)], (1, 10, 8))


def test_further_subgraphs_are_said(tmp_path):
    file = File()
    x, y = file.tensor((4,)), file.tensor((4,))
    file.operator("TANH", [x], [y])
    path = file.save(tmp_path / "m.tflite", [x], [y])
    assert tflite_graph.read(tflite_graph.load(path)).notes == ()

    file.model.subgraphs = [file.graph, file.graph]
    builder_path = tmp_path / "two.tflite"
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(file.model.Pack(builder), file_identifier=b"TFL3")
    builder_path.write_bytes(bytes(builder.Output()))
    assert "1 further subgraphs" in tflite_graph.read(tflite_graph.load(builder_path)).notes[0]
