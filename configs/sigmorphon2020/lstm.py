"""Spelling to pronunciation in one of 15 languages: SIGMORPHON 2020's shared task 1, 3,600 words to learn from.

An LSTM encoder-decoder with attention. The argument is the language: ady arm bul dut fre geo gre hin hun ice jpn kor
lit rum vie. The metric is the word error rate, `sequence_error_rate` of `evaluate --split=validation`. Published, on
the test sets: 16.84 on the mean of the 15 languages (LSTM baseline, tuned by language).

    s2sjax train --config=configs/sigmorphon2020/lstm.py:ice --workdir=runs/g2p_ice --config.data.dir=DIR

Reached, words wrong on dev in %: 15.6 on the mean. One seed, and dev chose the checkpoint too; the published figures
are of test sets (ours; the published LSTM's):

    ady 25.3; 28.0    arm 16.4; 14.7    bul 33.6; 31.1    dut 13.8; 16.4    fre 10.2; 6.2
    geo 25.1; 26.4    gre 14.4; 18.9    hin 6.9; 6.7     hun 4.0; 5.3     ice 9.8; 10.0
    jpn 6.7; 7.6     kor 32.0; 46.9    lit 20.7; 19.1    rum 12.4; 10.7    vie 3.1; 4.7

One EPYC (Zen 5) core, about 2 minutes each alone, 2026-11-21, commits 3a1eec1 (six of them) and e511000.
"""

from s2sjax.recipes import pronunciation


def get_config(argument: str = ""):
    config = pronunciation(model="rnn_seq2seq")

    language = argument or "ice"
    config.data.file = f"{{split}}/{language}_{{split}}.tsv"
    config.data.test = "dev"
    config.batching.kind = "bucket"
    config.batching.buckets = 3
    config.batching.tokens = 1024

    config.model.width = 192
    config.model.dropout = 0.4

    config.optimizer.learning_rate = 2e-3

    config.train.steps = 2000
    return config
