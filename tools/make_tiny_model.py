"""Write a tiny Llama model's config and tokenizer, for engines that can start with random weights.

Run it with the *engine's* interpreter, which has `tokenizers`:

    ENGINE_PYTHON tools/make_tiny_model.py OUT_DIR

The folder then serves with vLLM's `--load-format dummy`: 4 layers x 256, 8 heads, a byte-level BPE vocabulary of 4,096
entries trained on text generated here, 2,048 positions, no weights. `--weights` writes random ones, for engines that
must load some; the interpreter needs `torch` and `transformers` then. The same files are written on every run.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

LAYERS = 4
HIDDEN = 256
HEADS = 8
VOCABULARY = 4_096
POSITIONS = 2_048
SPECIAL = ("<unk>", "<s>", "</s>")
"""Token ids 0, 1 and 2, as Llama has them."""

_SEED = 20_240_501
_ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_CODAS = ("", "", "l", "m", "n", "nd", "nt", "r", "rs", "s", "st", "t")


def training_text(sentences: int = 4_000) -> list[str]:
    """Deterministic made-up sentences over a vocabulary whose word frequencies fall off like natural ones."""
    rng = random.Random(_SEED)  # noqa: S311 - reproducible text, not cryptography

    def word() -> str:
        syllables = rng.choices((1, 2, 3), (3, 4, 2))[0]
        return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))

    words = [word() for _ in range(6_000)]
    weights = [1.0 / (rank + 3) for rank in range(len(words))]
    lines = []
    for _ in range(sentences):
        chosen = rng.choices(words, weights, k=rng.randint(6, 18))
        lines.append(" ".join(chosen).capitalize() + rng.choice((".", "?", ";", f" {rng.randint(0, 9_999)}.")))
    return lines


def write_tokenizer(folder: Path) -> int:
    """Train and write `tokenizer.json` and its configuration; returns the vocabulary's size."""
    from tokenizers import (  # type: ignore[import-not-found]  # only in the engine's environment
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    unk, bos, eos = SPECIAL
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": unk,
            "bos_token": bos,
            "eos_token": eos,
            "model_max_length": POSITIONS,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(folder / "special_tokens_map.json", {"unk_token": unk, "bos_token": bos, "eos_token": eos})
    return int(tokenizer.get_vocab_size())


def write_model(folder: Path) -> None:
    """Write everything an engine needs to serve the model with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": 4 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "vocab_size": vocabulary,
            "bos_token_id": SPECIAL.index("<s>"),
            "eos_token_id": SPECIAL.index("</s>"),
            "torch_dtype": "bfloat16",
        },
    )


def write_weights(folder: Path) -> None:
    """Write random weights for the model in `folder`."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # only in the engine's environment
    from transformers import (  # type: ignore[import-not-found]  # likewise
        AutoConfig,
        AutoModelForCausalLM,
    )

    torch.manual_seed(_SEED)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a tiny Llama (config and tokenizer).")
    parser.add_argument("out_dir", type=Path, help="folder to write into; made if missing")
    parser.add_argument("--weights", action="store_true", help="random weights, too")
    arguments = parser.parse_args()
    folder = arguments.out_dir
    write_model(folder)
    if arguments.weights:
        write_weights(folder)
    print(folder)


if __name__ == "__main__":
    main()
