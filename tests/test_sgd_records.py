"""`configs/sgd/records.py`: what it makes of dialogues."""

import json
import lzma
import random
import runpy

import pytest

from tests.config_files import CONFIGS

RECORDS = runpy.run_path(str(CONFIGS / "sgd" / "records.py"))


def user(*pieces):
    """A turn of the user. Args: pieces: texts, and (slot, value) for each value that is said."""
    text, spans = "", []
    for piece in pieces:
        value = piece if isinstance(piece, str) else piece[1]
        if not isinstance(piece, str):
            spans.append({"slot": piece[0], "start": len(text), "exclusive_end": len(text) + len(value)})
        text += value
    frames = [{"service": "A_1", "slots": spans[:1]}, {"service": "B_1", "slots": spans[1:]}]
    return {"speaker": "USER", "utterance": text, "frames": frames}


def system(text):
    return {"speaker": "SYSTEM", "utterance": text, "frames": []}


DIALOGUE = {
    "turns": [
        user("A table in ", ("city", "San Jose"), " at ", ("time", "11:30 am"), "."),
        system("Which one?"),
        user(("name", "Sino"), "?"),
        system("Done."),
        user("Bye"),
        system("Good bye."),
        user("Oh"),
        system("Yes?"),
    ]
}


def test_each_turn_of_the_system_has_up_to_five_turns_before_it():
    assert list(RECORDS["replies"](DIALOGUE))[1] == {
        "history": "USER: A table in San Jose at 11:30 am.\nSYSTEM: Which one?\nUSER: Sino?", "reply": "Done."
    }  # fmt: skip
    assert list(RECORDS["replies"](DIALOGUE))[3] == {
        "history": "USER: Sino?\nSYSTEM: Done.\nUSER: Bye\nSYSTEM: Good bye.\nUSER: Oh",
        "reply": "Yes?",
    }


def test_each_turn_of_the_user_has_a_tag_for_each_word():
    assert list(RECORDS["slots"](DIALOGUE))[:2] == [
        {"words": "A table in San Jose at 11 : 30 am .", "tags": "O O O B-city I-city O B-time I-time I-time I-time O"},
        {"words": "Sino ?", "tags": "B-name O"},
    ]


def test_the_words_of_a_span_are_those_of_its_value():
    rng = random.Random(0)
    letters = "ab 1.'é,日"
    for _ in range(200):
        texts = ["".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))]
        values = [(f"s{n}", f"x{text}x") for n, text in enumerate(texts)]
        turn = user(
            *(piece for value in values for piece in (rng.choice([" ", " a, b "]), value)), f" {rng.choice(texts)}"
        )
        (record,) = RECORDS["slots"]({"turns": [turn]})
        found = {}
        for word, tag in zip(record["words"].split(" "), record["tags"].split(" "), strict=True):
            if tag != "O":
                assert (tag[0] == "B") == (tag[2:] not in found), record
                found[tag[2:]] = found.get(tag[2:], "") + word
        assert found == {slot: "".join(value.split()) for slot, value in values}
        assert record["words"].replace(" ", "") == "".join(turn["utterance"].split())


def test_both_layouts_of_the_data_make_the_same_files_which_the_configs_read(tmp_path, capsys):
    dialogues = [{"turns": [user(f"Number {n}"), system("Yes.")]} for n in range(30)]
    for split in ("train", "dev"):
        (tmp_path / "folders" / split).mkdir(parents=True)
        (tmp_path / "lines").mkdir(exist_ok=True)
        for n in (0, 1):
            part = tmp_path / "folders" / split / f"dialogues_00{n + 1}.json"
            part.write_text(json.dumps(dialogues[15 * n : 15 * n + 15]))
        with lzma.open(tmp_path / "lines" / f"{split}.jsonl.xz", "wt") as file:
            file.writelines(json.dumps(dialogue) + "\n" for dialogue in dialogues)
    made = []
    for layout in ("folders", "lines"):
        RECORDS["main"](str(tmp_path / layout), str(tmp_path / f"of {layout}"))
        made.append({path.name: path.read_text() for path in (tmp_path / f"of {layout}").iterdir()})
    assert made[0] == made[1] and made[0].keys() == {
        "dialogue.train.jsonl", "dialogue.dev.jsonl", "slots.train.jsonl", "slots.dev.jsonl"
    }  # fmt: skip
    assert "30 records of 30 dialogues" in capsys.readouterr().out
    words = [json.loads(line)["words"] for line in made[0]["slots.train.jsonl"].splitlines()]
    assert sorted(words) == sorted(f"Number {n}" for n in range(30)) and words != [f"Number {n}" for n in range(30)]


def test_a_directory_without_dialogues_is_told(tmp_path):
    with pytest.raises(SystemExit, match="has neither train/dialogues_.*json nor train.jsonl"):
        RECORDS["main"](str(tmp_path), str(tmp_path / "out"))
