"""Single operators against their closed forms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph
from agent.workload.kernels import group
from agent.workload.stages import split
from tests.workload.models import Writer

FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8


def read(writer: Writer, inputs: dict[str, tuple[int, list[int | str]]], *outputs: str, **dims: int):
    return onnx_graph.read(writer.model(inputs, *outputs), dims)


def only(graph):
    (stage,) = split(graph, 1)
    return stage


def flops(graph, family: str) -> dict[str, float]:
    return {w.precision: w.flops for w in only(graph).work if w.family == family}


def test_grouped_convolution_counts_channels_per_group():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [1, 8, 6, 6])}, w.conv("x", 8, 16, 3, groups=2))

    assert flops(graph, "conv") == {"fp32": 2 * 16 * 36 * 4 * 9}


def test_depthwise_convolution_is_its_own_family():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [1, 8, 6, 6])}, w.conv("x", 8, 8, 3, groups=8))

    assert flops(graph, "depthwise") == {"fp32": 2 * 8 * 36 * 9}


def test_a_convolution_over_one_channel_is_not_depthwise():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [1, 1, 6, 6])}, w.conv("x", 1, 4, 3))

    assert flops(graph, "conv") == {"fp32": 2 * 4 * 36 * 9}


def test_transposed_convolution_counts_each_input_element():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [1, 4, 5, 5])}, w.node("ConvTranspose", "x", w.weight(4, 6, 2, 2), strides=[2, 2]))

    assert flops(graph, "conv") == {"fp32": 2 * 4 * 25 * 6 * 4}
    assert graph.tensors[graph.outputs[0]].shape == (1, 6, 10, 10)


def test_gemm_with_both_operands_transposed_counts_m_n_k():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [7, 3])}, w.node("Gemm", "x", w.weight(5, 7), transA=1, transB=1))

    assert flops(graph, "gemm") == {"fp32": 2 * 3 * 5 * 7}


def test_half_precision_is_counted_as_such_with_two_bytes_per_weight():
    w = Writer(HALF)
    graph = read(w, {"x": (HALF, [4, 8])}, w.node("MatMul", "x", w.weight(8, 16)))

    assert flops(graph, "gemm") == {"fp16": 2 * 4 * 8 * 16}
    assert only(graph).weight_bytes == 8 * 16 * 2


def test_integer_product_counts_as_int8():
    w = Writer()
    graph = read(w, {"x": (UINT8, [4, 8])}, w.node("MatMulInteger", "x", w.weight(8, 16, dtype=INT8)))

    assert flops(graph, "gemm") == {"int8": 2 * 4 * 8 * 16}
    assert only(graph).weight_bytes == 8 * 16


def test_quantised_convolution_finds_its_weight_at_the_fourth_input():
    w = Writer()
    scale, zero = w.weight(), w.weight(dtype=UINT8)
    weight = w.weight(6, 3, 1, 1, dtype=UINT8)
    y = w.node("QLinearConv", "x", scale, zero, weight, scale, zero, scale, zero)
    graph = read(w, {"x": (UINT8, [1, 3, 4, 4])}, y)

    assert flops(graph, "conv") == {"int8": 2 * 6 * 16 * 3}
    assert only(graph).activation_bytes == 3 * 16 + 6 * 16


def quantised_pair(w: Writer, x: str, zero_type: int) -> str:
    scale, zero = w.weight(), w.weight(dtype=zero_type)
    return w.node("DequantizeLinear", w.node("QuantizeLinear", x, scale, zero), scale, zero)


def test_qdq_convolution_computes_in_int8_and_moves_int8():
    w = Writer()
    x = quantised_pair(w, "x", UINT8)
    first, second = (
        w.node("DequantizeLinear", w.weight(*shape, dtype=INT8), w.weight(), w.weight(dtype=INT8))
        for shape in ((6, 3, 1, 1), (2, 6, 1, 1))
    )
    y = w.node("Relu", w.node("Conv", x, first))
    z = w.node("Conv", quantised_pair(w, y, UINT8), second)
    graph = read(w, {"x": (FLOAT, [1, 3, 4, 4])}, z)

    assert flops(graph, "conv") == {"int8": 2 * 16 * (6 * 3 + 2 * 6)}
    assert only(graph).weight_bytes == pytest.approx(6 * 3 + 2 * 6, abs=20)
    middle = 6 * 16
    quantise, first, second = 5 * 3 * 16, 3 * 16 + middle, middle + 2 * 16 * 4
    assert only(graph).activation_bytes == quantise + first + second


def test_a_tensor_that_is_also_read_in_float_stays_in_float():
    w = Writer()
    y = w.conv("x", 3, 4, 1)
    graph = read(w, {"x": (FLOAT, [1, 3, 4, 4])}, w.node("Sin", quantised_pair(w, y, UINT8)), w.node("Cos", y))

    assert graph.tensors[y].dtype == "float32"
    assert [n.cost.kind for n in graph.nodes if n.operator == "QuantizeLinear"] == ["elementwise"]


def test_dequantised_weight_alone_is_stored_small_and_computed_wide():
    w = Writer()
    weight = w.node("DequantizeLinear", w.weight(8, 16, dtype=INT8), w.weight(), w.weight(dtype=INT8))
    graph = read(w, {"x": (FLOAT, [4, 8])}, w.node("MatMul", "x", weight))

    assert flops(graph, "gemm") == {"fp32": 2 * 4 * 8 * 16}
    assert only(graph).weight_bytes == 8 * 16 + 4 + 1


def test_four_bit_product_counts_packed_weights_and_scales():
    w = Writer(HALF)
    packed, scales = w.weight(64, 4, 16, dtype=UINT8), w.weight(64 * 4)
    y = w.node("MatMulNBits", "x", packed, scales, domain="com.microsoft", K=128, N=64, bits=4, block_size=32)
    graph = read(w, {"x": (HALF, [1, "sequence", 128])}, y, sequence=3)

    assert flops(graph, "gemm") == {"int4": 2 * 3 * 128 * 64}
    assert only(graph).weight_bytes == 64 * 128 / 2 + 2 * 64 * 4
    assert graph.tensors[y].shape == (1, 3, 64)


def grouped_query(steps: int, past: int):
    w = Writer(HALF)
    nothing = w.values([0])
    y = w.node("GroupQueryAttention", "q", "k", "v", "past_k", "past_v", nothing, nothing, domain="com.microsoft",
               outputs=3, num_heads=8, kv_heads=2, kv_num_heads=2)  # fmt: skip
    cache = (HALF, [1, 2, "past_sequence_length", 16])
    inputs = {"q": (HALF, [1, "sequence_length", 128]), "k": (HALF, [1, "sequence_length", 32]),
              "v": (HALF, [1, "sequence_length", 32]), "past_k": cache, "past_v": cache}  # fmt: skip
    return read(w, inputs, y, sequence=steps, past=past)


def test_grouped_query_attention_in_decode_reads_the_cache_and_writes_one_position():
    graph = grouped_query(1, 100)

    assert flops(graph, "attention") == {"fp16": 8 * 101 * (4 * 16 + 5)}
    assert only(graph).kv_bytes == 2 * 2 * 16 * 2 * (100 + 2)


def test_grouped_query_attention_in_prefill_is_causal():
    graph = grouped_query(32, 0)

    assert flops(graph, "attention") == {"fp16": 8 * (32 * 33 / 2) * (4 * 16 + 5)}


def test_multi_head_attention_sees_all_positions():
    w = Writer()
    y = w.node("MultiHeadAttention", "q", "k", "k", domain="com.microsoft", num_heads=4)
    graph = read(w, {"q": (FLOAT, [1, 5, 32]), "k": (FLOAT, [1, 9, 32])}, y)

    assert flops(graph, "attention") == {"fp32": 4 * 5 * 9 * (4 * 8 + 5)}


def test_vendor_attention_includes_its_projection():
    w = Writer()
    y = w.node("Attention", "x", w.weight(32, 96), w.weight(96), domain="com.microsoft", num_heads=4)
    graph = read(w, {"x": (FLOAT, [1, 6, 32])}, y)

    assert flops(graph, "gemm") == {"fp32": 2 * 6 * 32 * 96}
    assert flops(graph, "attention") == {"fp32": 4 * 36 * 32 + 5 * 4 * 36}


def test_lstm_counts_gates_per_step_and_direction():
    w = Writer()
    y = w.node("LSTM", "x", w.weight(2, 4 * 8, 6), w.weight(2, 4 * 8, 8), hidden_size=8, direction="bidirectional")
    graph = read(w, {"x": (FLOAT, [10, 3, 6])}, y)

    assert flops(graph, "gemm") == {"fp32": 2 * 30 * 2 * 4 * 8 * (6 + 8)}


@pytest.mark.parametrize(
    ("equation", "expected"), [("bij,jk->bik", 2 * 2 * 3 * 4 * 5), ("...ij,jk->...ik", 2 * 2 * 3 * 4 * 5)]
)
def test_einsum_counts_all_its_indices(equation, expected):
    w = Writer()
    graph = read(w, {"x": (FLOAT, [2, 3, 4])}, w.node("Einsum", "x", w.weight(4, 5), equation=equation))

    assert flops(graph, "gemm") == {"fp32": expected}


def test_a_gather_touches_the_rows_it_takes():
    w = Writer()
    graph = read(w, {"ids": (TensorProto.INT64, [1, 4])}, w.node("Gather", w.weight(100, 8), "ids"))

    stage = only(graph)
    assert (stage.weight_bytes, stage.idle_weight_bytes) == (4 * 8 * 4, 96 * 8 * 4)
    assert stage.activation_bytes == 4 * 8 + 4 * 8 * 4


def test_a_packed_embedding_is_read_row_by_row():
    w = Writer()
    y = w.node("GatherBlockQuantized", w.weight(100, 16, dtype=UINT8), "ids", w.weight(100, 1), domain="com.microsoft",
               bits=4, block_size=32)  # fmt: skip
    graph = read(w, {"ids": (TensorProto.INT64, [1, 4])}, y)

    assert graph.tensors[y].shape == (1, 4, 32)
    assert only(graph).idle_weight_bytes == 96 * 16


def test_views_move_nothing_and_shape_arithmetic_is_folded():
    w = Writer()
    first = w.node("Slice", w.node("Shape", "x"), w.values([0]), w.values([1]))
    shape = w.node("Concat", first, w.values([-1]), axis=0)
    graph = read(w, {"x": (FLOAT, ["batch", 4, 5])}, w.node("Relu", w.node("Reshape", "x", shape)), batch=3)

    assert [n.operator for n in graph.nodes] == ["Reshape", "Relu"]
    assert graph.tensors[graph.outputs[0]].shape == (3, 20)
    assert only(graph).activation_bytes == 2 * 60 * 4


def test_shared_weights_count_once_per_stage():
    w = Writer()
    weight = w.weight(8, 8)
    graph = read(w, {"x": (FLOAT, [1, 8])}, w.node("MatMul", w.node("Sin", w.node("MatMul", "x", weight)), weight))

    assert only(graph).weight_bytes == 8 * 8 * 4


def body(name: str, nodes, output: str, inputs=()) -> onnx.GraphProto:
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), f"{name}_w")
    return helper.make_graph(nodes, name, list(inputs), [helper.make_empty_tensor_value_info(output)], [weight])


def test_the_more_expensive_branch_of_if_is_counted():
    cheap = body("cheap", [helper.make_node("Relu", ["x"], ["c"])], "c")
    dear = body("dear", [helper.make_node("MatMul", ["x", "dear_w"], ["d"])], "d")
    w = Writer()
    y = w.node("If", "go", then_branch=cheap, else_branch=dear)
    graph = read(w, {"x": (FLOAT, [4, 8]), "go": (TensorProto.BOOL, [1])}, y)

    assert flops(graph, "gemm") == {"fp32": 2 * 4 * 8 * 8}
    assert only(graph).weight_bytes == 8 * 8 * 4
    assert any("more expensive branch" in n for n in graph.notes)


@pytest.mark.parametrize(("count", "times"), [(5, 5), (None, 1)])
def test_a_loop_is_counted_as_often_as_is_known(count, times):
    given = (("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("h", FLOAT, [4, 8]))
    inputs = [helper.make_tensor_value_info(*g) for g in given]
    nodes = [helper.make_node("MatMul", ["h", "loop_w"], ["o"]), helper.make_node("Identity", ["c"], ["k"])]
    loop = body("loop", nodes, "k", inputs)
    loop.output.append(helper.make_empty_tensor_value_info("o"))
    w = Writer()
    trips = w.values([count]) if count else "trips"
    given = {"x": (FLOAT, [4, 8]), "go": (TensorProto.BOOL, [])}
    if not count:
        given["trips"] = (TensorProto.INT64, [])
    graph = read(w, given, w.node("Loop", trips, "go", "x", body=loop))

    assert flops(graph, "gemm") == {"fp32": times * 2 * 4 * 8 * 8}
    assert graph.tensors[graph.outputs[0]].shape == (4, 8)
    assert any("counted once" in n for n in graph.notes) == (count is None)


def test_a_scan_runs_once_per_slice_and_stacks_its_outputs():
    inputs = [helper.make_tensor_value_info("h", FLOAT, [8]), helper.make_tensor_value_info("s", FLOAT, [8])]
    nodes = [helper.make_node("MatMul", ["s", "scan_w"], ["m"]), helper.make_node("Add", ["h", "m"], ["n"]),
             helper.make_node("Identity", ["n"], ["o"])]  # fmt: skip
    scan = body("scan", nodes, "n", inputs)
    scan.output.append(helper.make_empty_tensor_value_info("o"))
    w = Writer()
    w.node("Scan", "x", "xs", body=scan, num_scan_inputs=1, outputs=2)
    graph = read(w, {"x": (FLOAT, [8]), "xs": (FLOAT, [6, 8])}, "t0_0", "t0_1")

    assert flops(graph, "gemm") == {"fp32": 6 * 2 * 8 * 8}
    assert [graph.tensors[o].shape for o in graph.outputs] == [(8,), (6, 8)]


@pytest.mark.parametrize(
    ("shapes", "attributes", "scores"),
    [
        (((2, 4, 5, 8), (2, 4, 9, 8), (2, 4, 9, 6)), {}, 2 * 4 * 5 * 9),
        (((2, 5, 32), (2, 9, 16), (2, 9, 12)), {"q_num_heads": 4, "kv_num_heads": 2}, 2 * 4 * 5 * 9),
    ],
)
def test_standard_attention_in_both_layouts(shapes, attributes, scores):
    w = Writer()
    inputs = {name: (FLOAT, list(shape)) for name, shape in zip("qkv", shapes, strict=True)}
    y = w.node("Attention", "q", "k", "v", **attributes)
    graph = onnx_graph.read(w.model(inputs, y, opset=23), {})

    assert flops(graph, "attention") == {"fp32": scores * (2 * 8 + 2 * 6 + 5)}


@pytest.mark.parametrize(
    ("operator", "inputs", "shape"),
    [
        ("SkipLayerNormalization", ((1, 5, 8), (1, 5, 8), None), (1, 5, 8)),
        ("BiasGelu", ((1, 5, 8), None), (1, 5, 8)),
        ("QuickGelu", ((1, 5, 8),), (1, 5, 8)),
        ("QLinearAdd", ((1, 5, 8), None, None, (5, 8), None, None), (1, 5, 8)),
    ],
)
def test_vendor_elementwise_operators_have_their_shape(operator, inputs, shape):
    w = Writer()
    names, given = [], {}
    for index, size in enumerate(inputs):
        names.append(f"x{index}" if size else w.weight(8))
        if size:
            given[f"x{index}"] = (FLOAT, list(size))
    y = w.node(operator, *names, domain="com.microsoft")

    assert read(w, given, y).tensors[y].shape == shape


def test_a_fused_product_transposes_its_operands():
    w = Writer()
    y = w.node("FusedMatMul", "x", w.weight(5, 7), domain="com.microsoft", transA=1, transB=1)
    graph = read(w, {"x": (FLOAT, [3, 7, 4])}, y)

    assert graph.tensors[y].shape == (3, 4, 5)


def test_token_and_position_embeddings_are_normalised_together():
    w = Writer()
    tables = [w.weight(100, 8), w.weight(64, 8), w.weight(2, 8), w.weight(8), w.weight(8)]
    y = w.node("EmbedLayerNormalization", "ids", "types", *tables, domain="com.microsoft", outputs=2)
    ids = (TensorProto.INT64, [2, 4])

    assert read(w, {"ids": ids, "types": ids}, y).tensors[y].shape == (2, 4, 8)


def test_constants_inside_nodes_are_read():
    w = Writer()
    shape = w.node("Constant", value_ints=[2, 4])
    scale = w.node("Constant", value_float=2.0)
    text = w.node("Constant", value_string="x")
    y = w.node("Mul", w.node("Reshape", "x", shape), scale)
    graph = read(w, {"x": (FLOAT, [8])}, y, text)

    assert graph.tensors[y].shape == (2, 4)
    assert graph.outputs == (y,)


def test_a_size_that_depends_on_the_data_is_said():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [8])}, w.node("NonZero", "x"))

    assert graph.tensors[graph.outputs[0]].shape == (1, 1)
    assert "sizes that depend on the data are taken as 1" in graph.notes


def test_an_old_dropout_passes_its_input_on():
    w = Writer()
    y = w.node("Dropout", w.node("Relu", "x"))
    graph = onnx_graph.read(w.model({"x": (FLOAT, [1, 8])}, y, opset=6), {})

    assert graph.tensors[y].shape == (1, 8)
    assert only(graph).nodes == 1


def test_an_unknown_operator_is_estimated_and_named():
    w = Writer()
    graph = read(w, {"x": (FLOAT, [2, 8])}, w.node("Frobnicate", "x", domain="example.org"))

    assert flops(graph, "elementwise") == {"fp32": 16}
    assert any("Frobnicate" in n for n in graph.notes)


def test_activations_fuse_into_the_product_before_them():
    w = Writer()
    y = w.conv("x", 3, 4, 1)
    gated = w.node("Mul", y, w.node("Sigmoid", y))
    graph = read(w, {"x": (FLOAT, [1, 3, 4, 4])}, gated)

    assert [k.operators for k in group(graph)] == [("Conv", "Sigmoid", "Mul")]
    assert only(graph).activation_bytes == (3 + 4) * 16 * 4


def test_an_activation_that_somebody_else_reads_is_written():
    w = Writer()
    y = w.conv("x", 3, 4, 1)
    graph = read(w, {"x": (FLOAT, [1, 3, 4, 4])}, w.node("Relu", y), y)

    assert [k.operators for k in group(graph)] == [("Conv",), ("Relu",)]


def test_constants_of_any_size_are_folded_without_being_made():
    w = Writer()
    big = w.node("ConstantOfShape", w.values([1 << 20, 1 << 10]))
    graph = read(w, {"x": (FLOAT, [1, 1 << 20])}, w.node("MatMul", "x", big))

    assert only(graph).weight_bytes == 4.0 * (1 << 30)
    assert [n.operator for n in graph.nodes] == ["MatMul"]


def test_a_node_that_reads_nothing_known_is_damage():
    w = Writer()
    with pytest.raises(ModelLoadFailed, match="nothing produces"):
        read(w, {"x": (FLOAT, [1, 8])}, w.node("Add", "x", "ghost"))


def test_inputs_of_the_wrong_shape_are_one_clear_line():
    w = Writer()
    y = w.node("Attention", "x", w.weight(8), domain="com.microsoft", num_heads=4)
    with pytest.raises(ModelLoadFailed, match="wrong shape"):
        read(w, {"x": (FLOAT, [8])}, y)


def test_functions_inside_the_file_are_opened():
    function = helper.make_function(
        "mine", "Twice", ["a", "b"], ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("MatMul", ["m", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    w = Writer()
    model = w.model({"x": (FLOAT, [1, 8])}, w.node("Twice", "x", w.weight(8, 8), domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)

    graph = onnx_graph.read(onnx_graph.opened(model), {})
    assert flops(graph, "gemm") == {"fp32": 2 * 2 * 8 * 8}
