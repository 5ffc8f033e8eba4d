"""Special token ids, the same for every tokenizer and every model."""

PAD, UNK, BOS, EOS = 0, 1, 2, 3
