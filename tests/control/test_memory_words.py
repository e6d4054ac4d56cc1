"""What runtimes say when an allocation failed is told from everything else that they say of memory."""

from __future__ import annotations

import pytest

from agent.control.memory_words import says_no_memory

FAILED = [
    "std::bad_alloc",
    "m: bad allocation",
    "MemoryError: ",
    "Unable to allocate 4.00 GiB for an array with shape (32768, 32768) and data type float32",
    "mmap failed: [Errno 12] Cannot allocate memory",
    "lane's cgroup: oom-kill",
    "Failed to allocate memory for requested buffer of size 4294967296",
    "failed to allocate 1024 bytes for sparse contiguous output",
    "Requested amount of GPU memory (4294967296 bytes) could not be allocated.",
    "out of memory while running",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=board",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "HIP failure 2: hipErrorOutOfMemory",
    "Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
    "VK_ERROR_OUT_OF_DEVICE_MEMORY",
    "ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY",
    "xnn_status_out_of_memory",
    "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "miopenStatusAllocFailed",
    "QNN_COMMON_ERROR_MEM_ALLOC",
    "cudaErrorMemoryAllocation",
    "rocblas_status_memory_error",
    "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    "[GPU] Exceeded max size of memory object allocation: requested 4294967296 bytes",
    "not enough memory: you tried to allocate 4294967296 bytes",
    "insufficient device memory",
    "Available memory of 1024 is smaller than requested bytes of 4096",
]
ELSE = [
    "",
    "unsupported memory layout NHWC of input 'x'",
    "unsupported layout of memory for input 0",
    "timeout of memory transfer 3",
    "the memory format of the operand is blocked, expected plain",
    "memory pattern planning is off for this session",
    "memory-mapped weights: file too short",
    "the shared memory of the kernel exceeds what a block has",
    "memory: Non-zero status code returned while running Gemm node",
    "the tensors of a call do not lie inside its shared memory",
    "Failed to allocate tensors",
    "AllocateTensors() failed: a dimension is unknown",
    "an allocated memory object was released twice",
    "m: no memory to hand it over",
    "OutOfMemoryHandler is not registered",
    "MemoryErrors are counted",
    "illegal memory access was encountered",
]


@pytest.mark.parametrize("sentence", FAILED)
def test_a_failed_allocation_is_known_by_the_runtimes_words(sentence):
    assert says_no_memory(sentence)
    assert says_no_memory(f"m: {sentence.lower()}")


@pytest.mark.parametrize("sentence", ELSE)
def test_other_words_on_memory_are_no_failed_allocation(sentence):
    assert not says_no_memory(sentence)
