"""Write a tiny Llama with random weights as one GGUF file, for llama.cpp.

Run it with an interpreter that has `gguf` and `numpy` (`make llamacpp` sets one up):

    ENGINE_PYTHON tools/make_tiny_gguf.py OUT_FILE

2 layers x 128, 4 heads, 2,048 positions, a vocabulary of 512: three control tokens, the 256 bytes, and made-up words.
The same file is written on every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

LAYERS = 2
HIDDEN = 128
HEADS = 4
VOCABULARY = 512
POSITIONS = 2_048
CONTROL = ("<unk>", "<s>", "</s>")
"""Token ids 0, 1 and 2, as Llama has them."""

_SEED = 20_240_501
_BYTES = 256


def vocabulary() -> tuple[list[str], list[int]]:
    """Tokens and their types, in GGUF's numbers: 1 normal, 2 unknown, 3 control, 6 a byte."""
    words = [f"\u2581w{number}" for number in range(VOCABULARY - _BYTES - len(CONTROL))]
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(_BYTES)), *words]
    return tokens, [2, 3, 3, *[6] * _BYTES, *[1] * len(words)]


def write(path: Path) -> None:
    """Write the file; its folder is made."""
    import gguf  # type: ignore[import-not-found]  # only in the engine's environment
    import numpy as np

    rng = np.random.default_rng(_SEED)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    tokens, types = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(VOCABULARY)])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(*shape: int) -> object:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    ones = np.ones(HIDDEN, dtype=np.float32)
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, HIDDEN))
    writer.add_tensor("output.weight", matrix(VOCABULARY, HIDDEN))
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{name}.{part}.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{name}.{part}.weight", matrix(HIDDEN, HIDDEN))
        for part in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{name}.{part}.weight", matrix(2 * HIDDEN, HIDDEN))
        writer.add_tensor(f"{name}.ffn_down.weight", matrix(HIDDEN, 2 * HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a tiny Llama with random weights as a GGUF file.")
    parser.add_argument("out_file", type=Path, help="file to write; its folder is made")
    path = parser.parse_args().out_file
    write(path)
    print(path)


if __name__ == "__main__":
    main()
