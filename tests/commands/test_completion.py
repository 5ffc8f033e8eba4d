"""`s2sjax completion`: what the shells offer is what the program takes."""

import shutil
import subprocess
import sys

import pytest

from s2sjax.cli import run_command
from s2sjax.commands.reference import config_keys
from s2sjax.commands.table import COMMANDS

TRY = r"""
source "$1"
while IFS= read -r line; do
  COMP_LINE="$line" COMP_POINT=${#line}
  read -ra COMP_WORDS <<<"${line//=/ = }"  # bash cuts words at "="
  [[ "$line" == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _s2sjax
  echo "${COMPREPLY[*]}"
done
"""


def script(shell, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_command(["completion", shell])
    assert stopped.value.code == 0
    return capsys.readouterr().out


FISH = "source $argv[1]; complete -C $argv[2]"
ZSH = """
compdef() { :; }; compadd() { [[ ${@[-1]} != ${words[CURRENT]}* ]] || print -r -- ${@[-1]}; }; compset() { :; }
source $0
words=(${(z)1}); CURRENT=${#words}
_s2sjax
"""
"""What zsh's completion system does with what it is given: the words that begin so."""


@pytest.fixture
def complete(tmp_path, capsys):
    """What bash offers for command lines with the cursor at their ends."""
    (tmp_path / "script").write_text(script("bash", capsys))

    def offered(*lines):
        arguments = ["bash", "-c", TRY, "bash", str(tmp_path / "script")]
        result = subprocess.run(arguments, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return [line.split() for line in result.stdout.splitlines()]

    return offered


def test_bash_offers_every_command_option_choice_and_config_key(complete):
    lines = {"s2sjax ": {*COMMANDS, "--help", "--version"}}
    for name, command in COMMANDS.items():
        dashes = {f"--{option.name}" + ("" if option.switch else "=") for option in command.options}
        lines[f"s2sjax {name} --"] = {*dashes, "--help", *(["--config."] if command.config != "none" else [])}
        for option in command.options:
            if listed := option.choices or option.known:
                lines[f"s2sjax {name} --{option.name}="] = set(listed)
        keys = {f"--config.{key.name}=" for key in config_keys()} if command.config != "none" else set()
        for section in ("decode.", "model.", "data."):
            lines[f"s2sjax {name} --config.{section}"] = {key for key in keys if key.startswith(f"--config.{section}")}
    for key in config_keys():
        if key.choices and not key.owner:
            lines[f"s2sjax train --config.{key.name}="] = {choice for choice in key.choices if choice}
    assert [set(words) for words in complete(*lines)] == list(lines.values())


def test_bash_offers_what_begins_so_and_files(complete, tmp_path):
    (tmp_path / "input.txt").touch()
    lines = {
        "s2sjax de": ["decode"],
        "s2sjax decode --inp": ["--input="],
        "s2sjax decode --format=j": ["jsonl"],
        "s2sjax decode --split=t": ["train", "test"],
        "s2sjax evaluate --split=v": ["validation"],
        "s2sjax align --layer=": ["all"],
        "s2sjax evaluate --config.decode.checkpoint=l": ["last"],
        "s2sjax evaluate --config.evaluate.metrics=rouge": ["rouge1", "rouge2", "rougeL", "rougeLsum"],
        "s2sjax train --config.mod": ["--config.model."],
        "s2sjax train --config.batching.shuffle=T": ["True"],
        f"s2sjax decode --input={tmp_path}/inp": [f"{tmp_path}/input.txt"],
        f"s2sjax compare {tmp_path}/inp": [f"{tmp_path}/input.txt"],
        "s2sjax completion z": ["zsh"],
        "s2sjax nonsense --x": [],
    }
    assert complete(*lines) == list(lines.values())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_well_formed(shell, capsys, tmp_path):
    path = tmp_path / "script"
    path.write_text(script(shell, capsys))
    names = ["_s2sjax_keys", "--config.decode.beam_size="] if shell != "fish" else ["-l config.decode.beam_size "]
    assert all(name in path.read_text() for name in names)
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([program, "--no-execute" if shell == "fish" else "-n", str(path)], check=True)


def test_fish_and_zsh_offer_what_bash_does(capsys, tmp_path):
    """A few lines in the shells themselves, where they are installed."""
    offered = {
        "s2sjax goodput --": ["--help", "--workdir="], "s2sjax completion z": ["zsh"], "s2sjax --v": ["--version"],
        "s2sjax decode --format=j": ["--format=jsonl"],
    }  # fmt: skip
    tried = 0
    for shell, run in (("fish", FISH), ("zsh", ZSH)):
        if (program := shutil.which(shell)) is None:
            continue
        tried += 1
        path = tmp_path / shell
        path.write_text(script(shell, capsys))
        for line, expected in offered.items():
            bare = "--no-config" if shell == "fish" else "-f"
            result = subprocess.run([program, bare, "-c", run, str(path), line], capture_output=True, text=True)
            assert result.returncode == 0 and not result.stderr, result.stderr
            found = {word.split("\t")[0].removesuffix("=") for word in result.stdout.splitlines()}
            assert found == {word.removesuffix("=") for word in expected}, (shell, line)
    if not tried:
        pytest.skip("neither is installed")


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_a_message(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(["completion", *arguments])
    assert stopped.value.code == 2 and "name one shell: bash, zsh, fish" in capsys.readouterr().err


def test_completion_does_not_load_jax():
    code = "import sys\nfrom s2sjax.cli import run_command\ntry: run_command(['completion', 'bash'])\nfinally: "
    code += "assert not {'jax', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
