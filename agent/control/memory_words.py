"""Memory words: whether what a runtime says means that an allocation failed. Text only.

The word alone means nothing: runtimes speak of memory layouts, formats and patterns when they refuse an input.
"""

from __future__ import annotations

import re

_SAID = (
    r"\bbad_alloc\b|\bbad allocation\b",  # C++
    r"\bMemoryError\b|\bunable to allocate [\d.]+ \w*B\b",  # Python, numpy
    r"\bcannot allocate memory\b|\boom-kill",  # the kernel
    # Whatever else "failed to allocate" is followed by; TensorFlow Lite calls a shape that it cannot resolve so.
    r"\bfailed to allocate\b(?! tensors?\b)|\bcould not be allocated\b",
    # Also CUDA_ERROR_OUT_OF_MEMORY, hipErrorOutOfMemory, VK_ERROR_OUT_OF_DEVICE_MEMORY, xnn_status_out_of_memory …
    r"(?<!lay)(?<!read)(?<!time)(?<!ab)out[ _-]?of[ _-]?(?:(?:device|host|gpu|pool)[ _-]?)?memory\b",
    # CUDNN_, CUBLAS_, HIPBLAS_STATUS_ALLOC_FAILED, miopenStatusAllocFailed, QNN_COMMON_ERROR_MEM_ALLOC
    r"status_?alloc_?failed\b|error_?mem_?alloc\b",
    r"\b(?:cuda|hip)ErrorMemoryAllocation\b|\brocblas_status_memory_error\b",
    r"\bCL_MEM_OBJECT_ALLOCATION_FAILURE\b|\bexceeded max size of memory (?:object )?allocation\b",  # OpenCL, OpenVINO
    r"\b(?:not enough|insufficient) (?:\w+ )?memory\b|\bavailable memory of \d+ is smaller than\b",
)
_NO_MEMORY = re.compile("|".join(_SAID), re.IGNORECASE)


def says_no_memory(sentence: str) -> bool:
    """Whether a runtime's sentence says that there was no memory for what it was asked."""
    return _NO_MEMORY.search(sentence) is not None
