"""The two backends that the agent brings."""

from __future__ import annotations

from typing import Final

from agent.runtimes.entry import Backend

ONNX: Final = Backend(
    name="onnx", title="ONNX Runtime", format="onnx", suffixes=(".onnx",), host_provider="CPUExecutionProvider",
    open="agent.backends.onnx:open_session", graph="agent.workload.onnx_workloads:read",
    facts="agent.workload.onnx_facts:read", probe="agent.backends.installed:onnxruntime",
    lacking="agent.backends.lacking:onnx", canary="agent.service.doctor.canary_files:onnx",
    micros="agent.workload.micro_onnx:write", extra="onnx",
)  # fmt: skip
LITERT: Final = Backend(
    name="litert", title="LiteRT", format="tflite", suffixes=(".tflite",), host_provider="XNNPACK",
    open="agent.backends.litert:open_session", graph="agent.workload.tflite_facts:workloads",
    facts="agent.workload.tflite_facts:read", probe="agent.backends.installed:litert",
    lacking="agent.backends.lacking:litert", canary="agent.service.doctor.canary_files:litert",
    micros="agent.workload.micro_tflite:write", extra="litert",
)  # fmt: skip
SHIPPED: Final = (ONNX, LITERT)
NATIVE: Final = "native"
"""A profile's word for a vendor's own runtime: planned and simulated with, never served from."""
