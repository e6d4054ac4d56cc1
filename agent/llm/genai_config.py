"""The description that ONNX Runtime GenAI reads, so that it can run an imported folder too."""

from __future__ import annotations

from typing import Any

from agent.llm.architecture import Decoder
from agent.llm.tokenizer_import import TokenizerFiles


def genai_config(decoder: Decoder, tokenizer: TokenizerFiles, graph: str) -> dict[str, Any]:
    """The contents of genai_config.json for one graph of the folder."""
    end = list(tokenizer.end_ids) or [0]
    return {
        "model": {
            "bos_token_id": tokenizer.begin_id if tokenizer.begin_id is not None else end[0],
            "eos_token_id": end,
            "pad_token_id": end[0],
            "context_length": decoder.context,
            "type": {"llama": "llama", "gemma3": "gemma3_text", "gpt2": "gpt2"}.get(decoder.architecture, "llama"),
            "vocab_size": decoder.vocabulary,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": graph,
                "head_size": decoder.filled_size,
                "hidden_size": decoder.hidden,
                "num_attention_heads": decoder.heads,
                "num_hidden_layers": decoder.layers,
                "num_key_value_heads": decoder.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": decoder.context, "past_present_share_buffer": True, "do_sample": False, "top_k": 1},
    }
