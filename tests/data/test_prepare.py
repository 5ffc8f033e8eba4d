import concurrent.futures
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data import prepare as preparation
from s2sjax.data.columns import Column
from s2sjax.data.config import DataConfig
from s2sjax.data.prepare import prepare, prepare_tokenizers, tokenize
from s2sjax.data.rows import RowFormat, turn_round
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.tasks.text import Text
from s2sjax.vocabulary import EOS

REPOSITORY = Path(__file__).parents[2]
CONFIG = TokenizerConfig(kind="bpe", vocab_size=60)
SHARD = 8  # examples


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(1)
    words = ["a", "the", "cat", "dog", "runs", "sees", "green", "house", "with", "over"]
    for split, count in (("train", 50), ("val", 11)):
        for language in ("en", "de"):
            lines = (" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(count))
            (tmp_path / f"{split}.{language}").write_text("".join(line + "\n" for line in lines))
    return DataConfig(
        dir=str(tmp_path),
        source="{split}.en",
        target="{split}.de",
        validation="val",
        cache_dir=str(tmp_path / "cache"),
    )


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_SIZE", SHARD)


def assert_equal(one, other):
    assert one.fingerprint == other.fingerprint
    for side in ("source", "target"):
        np.testing.assert_array_equal(one[side].values, other[side].values)
        np.testing.assert_array_equal(one[side].offsets, other[side].offsets)


def files(data):
    return sorted(str(p.relative_to(data.cache_dir)) for p in Path(data.cache_dir).rglob("*") if p.is_file())


def count_encoded(pair, monkeypatch):
    """The list that every call of the pair's `encode` adds its number of texts to."""
    counts = []
    encode = type(pair.source).encode
    monkeypatch.setattr(
        type(pair.source), "encode", lambda self, texts: counts.append(len(texts)) or encode(self, texts)
    )
    return counts


@given(rows=st.lists(st.lists(st.integers(0, 2**31 - 1))))
def test_rows_of_a_column_come_back(rows):
    column = Column.from_rows([np.array(row, np.int32) for row in rows])
    assert [row.tolist() for row in column] == rows
    assert column.lengths.tolist() == [len(row) for row in rows]
    assert (column.values.dtype, column.offsets.dtype) == (np.int32, np.int64)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["unigram", "bpe", "char", "byte"])
def test_every_example_is_stored_with_its_end_of_sentence(data, kind):
    prepared = prepare(data, TokenizerConfig(kind=kind, vocab_size=60), ("train", "validation"))
    for name, split in prepared.splits.items():
        source = open_split(data, name)
        assert len(split) == len(source)
        for i, pair in enumerate(source):
            for side in ("source", "target"):
                row = split[side][i]
                assert row[-1] == EOS
                assert EOS not in row[:-1]
                assert getattr(prepared.tokenizers, side).decode(row) == pair[side]
        assert split["source"].values.dtype == np.int32
        assert split["source"].offsets.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            split["source"].values[0] = 1


def test_the_shard_size_does_not_show_in_the_result(data, monkeypatch):
    pair = prepare_tokenizers(data, CONFIG)
    results = []
    for size in (1, 7, 50, 1000):
        own = dataclasses.replace(data, cache_dir=f"{data.cache_dir}/{size}")
        monkeypatch.setattr(preparation, "SHARD_SIZE", size)
        results.append(tokenize(own, pair, "train"))
    for other in results[1:]:
        assert_equal(results[0], other)


def test_preparing_again_trains_and_encodes_nothing(data, monkeypatch):
    first = prepare(data, CONFIG)
    counts = count_encoded(first.tokenizers, monkeypatch)
    calls = []
    again = prepare(data, CONFIG, progress=lambda *call: calls.append(call))
    assert counts == []
    assert calls == [("tokenising train", 50, 50), ("tokenising validation", 11, 11)]
    for name in first.splits:
        assert_equal(first.splits[name], again.splits[name])
    assert [name.partition("/")[2] for name in files(data)] == [
        *["source.model", "tokenizer.json"],
        *[
            *["complete.json", "counts.json"],
            *["source_offsets.npy", "source_tokens.npy", "target_offsets.npy", "target_tokens.npy"],
        ]
        * 2,
    ]


def test_other_content_or_another_tokenizer_is_prepared_anew(data):
    first = prepare(data, CONFIG, ("train",))
    other = prepare(data, dataclasses.replace(CONFIG, vocab_size=50), ("train",))
    with (Path(data.dir) / "train.en").open("a") as en, (Path(data.dir) / "train.de").open("a") as de:
        en.write("new\n")
        de.write("neu\n")
    changed = prepare(data, CONFIG, ("train",))
    prints = {p.splits["train"].fingerprint for p in (first, other, changed)}
    assert len(prints) == 3
    assert len(changed.splits["train"]) == 51


def test_progress_counts_examples_up_to_the_total(data, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_SIZE", 20)
    calls = []
    prepare(data, CONFIG, ("train",), progress=lambda *call: calls.append(call))
    training = "training the bpe tokenizer on 50 examples"
    assert calls == [(training, 0, 1), (training, 1, 1), *(("tokenising train", n, 50) for n in (20, 40, 50))]


KILLED = """
import json, os, signal, sys
from s2sjax.data import prepare
from s2sjax.data.config import DataConfig
from s2sjax.data.tokenizer_config import TokenizerConfig

def progress(description, done, total):
    if description.startswith("tokenising") and done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

data = DataConfig(**json.loads(sys.argv[1]))
prepare.SHARD_SIZE = 8
prepare.prepare(data, TokenizerConfig(kind="bpe", vocab_size=60), ("train",), progress=progress)
"""


@pytest.mark.usefixtures("small_shards")
def test_a_killed_preparation_goes_on_from_its_finished_shards(data, monkeypatch):
    untouched = prepare(dataclasses.replace(data, cache_dir=data.cache_dir + "-other"), CONFIG, ("train",))
    for done in (8, 32):
        command = [sys.executable, "-c", KILLED, json.dumps(dataclasses.asdict(data)), str(done)]
        killed = subprocess.run(command, cwd=REPOSITORY, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len([name for name in files(data) if name.endswith(".npz")]) == done // SHARD
    counts = count_encoded(untouched.tokenizers, monkeypatch)
    calls = []
    resumed = prepare(data, CONFIG, ("train",), progress=lambda *call: calls.append(call))
    assert counts[:6] == [8, 8, 8, 8, 2, 2]  # source and target of the shards after the fourth; trained nothing anew
    assert len(counts) == 8, "and white space, to know what is blank"
    assert all(description == "tokenising train" for description, _, _ in calls)
    assert_equal(resumed.splits["train"], untouched.splits["train"])
    assert not any(name.endswith((".npz", ".tmp")) for name in files(data))


@pytest.mark.usefixtures("small_shards")
def test_targets_are_turned_round_after_they_are_tokenised_and_end_of_sentence_stays_last(data):
    """With the same tokenizers, and beside what is kept of the other order."""
    plain = prepare(data, CONFIG, ("train",))
    other = prepare(data, CONFIG, ("train",), rows=RowFormat(right_to_left=True))
    assert other.tokenizers.target.to_bytes() == plain.tokenizers.target.to_bytes()
    ours, theirs = other.splits["train"], plain.splits["train"]
    assert ours.fingerprint != theirs.fingerprint
    np.testing.assert_array_equal(ours["source"].values, theirs["source"].values)
    for i in range(len(theirs)):
        assert ours["target"][i].tolist() == [*theirs["target"][i][:-1][::-1], EOS]
    assert_equal(prepare(data, CONFIG, ("train",)).splits["train"], theirs)


@pytest.mark.parametrize("row", [[], [EOS], [5, EOS], [5, 6, 7, EOS]])
def test_turning_round_twice_changes_nothing(row):
    turned = turn_round(np.array(row))
    assert turned[-1:].tolist() == row[-1:] and turn_round(turned).tolist() == row


def test_a_target_order_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="config.task.target_order is 'rtl': known: left_to_right, right_to_left"):
        Text(target_order="rtl")


@pytest.mark.usefixtures("small_shards")
def test_a_spoiled_shard_is_made_again(data, monkeypatch):
    pair = prepare_tokenizers(data, CONFIG)
    whole = tokenize(dataclasses.replace(data, cache_dir=data.cache_dir + "-other"), pair, "train")

    class Stop(Exception):
        pass

    def stop_after_two(description, done, total):
        if done == 2 * SHARD:
            raise Stop

    with pytest.raises(Stop):
        tokenize(data, pair, "train", progress=stop_after_two)
    elsewhere = shutil.copytree(data.cache_dir, data.cache_dir + "-copy")
    first, second = sorted(Path(data.cache_dir).rglob("*.npz"))
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:100])
    assert_equal(tokenize(data, pair, "train"), whole)
    # shards of one size are no part of a split that is prepared with another
    monkeypatch.setattr(preparation, "SHARD_SIZE", 11)
    assert_equal(tokenize(dataclasses.replace(data, cache_dir=elsewhere), pair, "train"), whole)


def test_processes_that_prepare_the_same_thing_at_once_do_not_disturb_each_other(data):
    command = [sys.executable, "-c", KILLED, json.dumps(dataclasses.asdict(data)), "1000"]
    running = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    untouched = prepare(dataclasses.replace(data, cache_dir=data.cache_dir + "-other"), CONFIG, ("train",))
    assert_equal(prepare(data, CONFIG, ("train",)).splits["train"], untouched.splits["train"])


@pytest.mark.usefixtures("small_shards")
def test_of_two_that_prepare_at_once_one_works_and_the_other_waits(data, monkeypatch):
    trained, written = [], []
    train, write = preparation.tokenizers_lib.train_tokenizers, preparation.write_shard

    def train_slowly(config, pairs, **how):
        trained.append(config)
        time.sleep(0.3)
        return train(config, pairs, **how)

    def write_slowly(path, *args, **options):
        written.append(path)
        time.sleep(0.1)
        write(path, *args, **options)

    monkeypatch.setattr(preparation.tokenizers_lib, "train_tokenizers", train_slowly)
    monkeypatch.setattr(preparation, "write_shard", write_slowly)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: prepare(data, CONFIG, ("train",)), range(2))
    assert_equal(one.splits["train"], other.splits["train"])
    assert len(trained) == 1 and len(written) == len(set(written))
    assert not list(Path(data.cache_dir).glob("*.lock"))


@pytest.fixture
def without_locks(monkeypatch):
    """On a disk that has none."""

    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(preparation.fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks", "small_shards")
def test_a_split_that_another_process_completes_in_between_is_used(data):
    """In lockstep: ours is stopped in the middle while theirs runs to the end and removes the shards."""
    pair = prepare_tokenizers(data, CONFIG)
    theirs = []

    def interfere(description, done, total):
        if not theirs and done == 2 * SHARD:
            theirs.append(tokenize(data, pair, "train"))

    ours = tokenize(data, pair, "train", progress=interfere)
    assert_equal(ours, theirs[0])


@pytest.mark.usefixtures("without_locks")
def test_of_two_tokenizers_trained_at_once_both_use_the_one_that_stayed(data, monkeypatch):
    barrier, sizes, train = threading.Barrier(2), iter([60, 50]), preparation.tokenizers_lib.train_tokenizers

    def train_differently(config, pairs, **how):
        pair = train(dataclasses.replace(config, vocab_size=next(sizes)), pairs, **how)
        barrier.wait(10)
        return pair

    monkeypatch.setattr(preparation.tokenizers_lib, "train_tokenizers", train_differently)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: prepare_tokenizers(data, CONFIG), range(2))
    assert one.source.to_bytes() == other.source.to_bytes()
    assert len(list(Path(data.cache_dir).iterdir())) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_cache_is_a_user_error_and_nothing_half_is_left(data, monkeypatch, code):
    def fail(handle):
        raise OSError(code, os.strerror(code))

    pair = prepare_tokenizers(data, CONFIG)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=rf"{data.cache_dir}.*: {os.strerror(code)}; .*data.cache_dir"):
        tokenize(data, pair, "train")
    assert not any(name.startswith("tokens") for name in files(data))


def test_a_cache_that_cannot_be_made_is_a_user_error(data, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = dataclasses.replace(data, cache_dir=str(tmp_path / "file" / "cache"))
    for kind in (CONFIG, TokenizerConfig(kind="byte")):
        with pytest.raises(UserError, match="cannot use the cache directory .*file/cache.*: Not a directory"):
            prepare(blocked, kind)
    with pytest.raises(UserError, match="cannot use the cache directory .*: Not a directory"):
        tokenize(blocked, prepare_tokenizers(data, CONFIG), "train")


def test_the_cache_directory_comes_from_the_config_then_the_environment(monkeypatch):
    monkeypatch.setenv("S2SJAX_CACHE", "/elsewhere")
    assert preparation.cache_directory(DataConfig(cache_dir="/here")) == Path("/here")
    assert preparation.cache_directory(DataConfig()) == Path("/elsewhere")
    monkeypatch.delenv("S2SJAX_CACHE")
    assert preparation.cache_directory(DataConfig()) == Path.home() / ".cache/s2sjax"


def test_a_given_model_needs_no_training_split(data, tmp_path):
    trained = prepare_tokenizers(data, CONFIG)
    (tmp_path / "given.model").write_bytes(trained.source.to_bytes())
    (tmp_path / "train.en").unlink()
    prepared = prepare(data, TokenizerConfig(source_model=str(tmp_path / "given.model")), ("validation",))
    assert prepared.tokenizers.source.to_bytes() == trained.source.to_bytes()
    assert len(prepared.splits["validation"]) == 11


def test_importing_the_data_floor_imports_nothing_slow():
    heavy = {"jax", "tensorflow_datasets", "sentencepiece"}
    code = f"import sys, s2sjax.data.prepare; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_a_run_goes_on_with_its_own_tokenizers_wherever_their_models_went(data, tmp_path):
    own = prepare_tokenizers(data, CONFIG)
    given = dataclasses.replace(CONFIG, source_model=str(tmp_path / "gone.model"))
    expected = prepare(data, CONFIG)
    (tmp_path / "same.model").write_bytes(own.source.to_bytes())
    for model in ("gone.model", "same.model", ""):
        config = dataclasses.replace(given, source_model=str(tmp_path / model) if model else "")
        found = prepare(data, config, own=own)
        assert found.tokenizers is own
        assert_equal(found.splits["train"], expected.splits["train"])
    other = prepare_tokenizers(data, dataclasses.replace(CONFIG, vocab_size=50))
    (tmp_path / "same.model").write_bytes(other.source.to_bytes())
    with pytest.raises(UserError, match="same.model' is not the model that this run began with and has a copy of"):
        prepare(data, dataclasses.replace(given, source_model=str(tmp_path / "same.model")), own=own)
