"""A small tokenizer with merges and control tokens, as chat models have them; nothing to download."""

from functools import cache
from typing import Any

from tests.rows import sentences

CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@cache
def merging_tokenizer(vocab: int = 384, bos: bool = False) -> Any:
    """Byte-level BPE in which a space belongs to the word behind it, and digits are split off one by one (SmolLM2's
    rules); with `bos` it puts a start token before every text that it is given alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in CONTROL]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [str(row["text"]) for row in sentences(80)]
    backend.train_from_iterator([*texts, *["Output: bad Answer: good The query currently entered is:"] * 9], trainer)
    if bos:
        start = CONTROL[0], backend.token_to_id(CONTROL[0])
        backend.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=CONTROL[1], bos_token=CONTROL[0])
