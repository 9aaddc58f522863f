"""Make a tokenizer for models that are made here: bytes, then words of one token each."""

import itertools
import string
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}<|message|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
)
END_OF_TEXT = "<|endoftext|>"
RETURN = "<|return|>"
LONGEST_WORD = 4  # letters: more words than any vocabulary needs


def save_tokenizer(folder: Path, vocab_size: int, specials: list[str], max_position: int):
    """Save byte-level BPE: the 256 bytes, then " abc" words of one token each, then `specials`; returns the tokenizer.

    A vocabulary of bytes alone would give the bench client's random prompts (consecutive token ids
    from a random offset) only 256 different beginnings: most would be replays. Each word is a unit
    of the pre-tokenizer, so decoding and encoding a prompt again gives the same tokens.

    Args:
        specials: in the order of their ids, which are the last of the vocabulary; RETURN and END_OF_TEXT among them.
        max_position: the longest context, tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space = "Ġ"  # how byte-level BPE spells the space
    vocab = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    lengths = range(1, LONGEST_WORD + 1)
    words = itertools.chain.from_iterable(itertools.product(string.ascii_lowercase, repeat=n) for n in lengths)
    for letters in itertools.islice(words, vocab_size - len(specials) - len(vocab)):
        stem, last = space + "".join(letters[:-1]), letters[-1]
        merges.append((stem, last))
        vocab.append(stem + last)
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocab)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=RETURN, pad_token=END_OF_TEXT,
        additional_special_tokens=[token for token in specials if token not in (RETURN, END_OF_TEXT)],
        model_max_length=max_position, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast
