"""A run that is killed, again and again and while it saves, ends with the bits of one that was left alone.

More kills by a command: python -m tests.faults --kills 50, or --kills 20 --processes 2.
"""

import pytest

from tests.faults import kills


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "family, batching, processes, times",
    [("transformer", "bucket", 1, 10), ("rnn_seq2seq", "pack", 1, 6), ("lstm_lm", "bucket", 2, 4)],
)
def test_random_kills_leave_no_trace_in_the_result(tmp_path, family, batching, processes, times):
    options = {"batching__kind": batching, "batching__buckets": 2}
    print(kills.kill(tmp_path, times, processes=processes, family=family, **options))
