"""`s2sjax completion`: a script that teaches a shell the commands, their options and the config keys."""

import shlex
from collections.abc import Callable, Iterable
from typing import Any

from s2sjax.commands.reference import config_keys, sections
from s2sjax.commands.table import COMMANDS

_KNOWN = {"decode.checkpoint": ("best", "last")}
"""Values of config keys that take others too."""


def run(values: dict[str, Any]) -> int:
    named = values["arguments"]
    if len(named) != 1 or named[0] not in SCRIPTS:
        raise COMMANDS["completion"].misuse(f"name one shell: {', '.join(SCRIPTS)}")
    print(SCRIPTS[named[0]](), end="")
    return 0


def _options(name: str) -> list[str]:
    """What may stand in a command's line, without the config keys: a value follows what ends in "="."""
    command = COMMANDS[name]
    options = [f"--{option.name}{'' if option.switch else '='}" for option in command.options]
    return [*options, "--help", *(["--config."] if command.config != "none" else [])]


def _keys() -> dict[str, tuple[str, ...]]:
    """All config keys, "--config.decode.method", with the values that each takes as far as they can be listed."""
    found: dict[str, tuple[str, ...]] = {}
    for key in config_keys():
        values = ("True", "False") if key.type == "True or False" else key.choices or _KNOWN.get(key.name, ())
        listed = tuple(value for value in values if value)  # of a tuple, what is written alone is its only item
        found[f"--config.{key.name}"] = tuple(dict.fromkeys((*found.get(f"--config.{key.name}", ()), *listed)))
    return found


def _values() -> dict[str, tuple[str, ...]]:
    """Values by shell pattern of command and option, "decode --format"; "*" is any command."""
    options = {
        f"{name} --{option.name}": option.choices or option.known
        for name, command in COMMANDS.items()
        for option in command.options
        if option.choices or option.known
    }
    return options | {f"* {key}": values for key, values in _keys().items() if values}


def _cases(entries: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Branches of a shell's case statement that set `list`."""
    return "\n".join(f"    {pattern}) list=({' '.join(map(shlex.quote, words))}) ;;" for pattern, words in entries)


def _pattern(text: str) -> str:
    star, space, rest = text.partition("* ")
    return f"*{shlex.quote(' ' + rest)}" if space and not star else shlex.quote(text)


def _shell_functions() -> str:
    """What bash and zsh share: functions that set the array `list`."""
    own = [(shlex.quote(name), _options(name)) for name in COMMANDS]
    values = [(_pattern(pattern), words) for pattern, words in _values().items()]
    return f"""\
_s2sjax_commands=({" ".join(COMMANDS)})
_s2sjax_sections=({" ".join(f"--config.{section}." for section in sections())} --config.seed=)
_s2sjax_keys=({" ".join(f"{key}=" for key in _keys())})

# Sets list to what the word $2 of the command $1 can become; files to 1 if it names a file.
_s2sjax_candidates() {{
  list=() files=0
  local value
  case "$2" in
    --config.*.*=* | --*=*)
      case "$1 ${{2%%=*}}" in
{_cases(values)}
    *) files=1 ;;
      esac
      if [ "$files" = 0 ]; then
        local -a whole=()
        for value in "${{list[@]}}"; do whole+=("${{2%%=*}}=$value"); done
        list=("${{whole[@]}}")
      fi
      return ;;
    --config.*)
      case "$1" in {"|".join(name for name, command in COMMANDS.items() if command.config == "none")}) return ;; esac
      case "$2" in
        --config.*.*) list=("${{_s2sjax_keys[@]}}") ;;
        *) list=("${{_s2sjax_sections[@]}}") ;;
      esac
      return ;;
  esac
  case "$1" in
{_cases(own)}
  esac
  case "$1" in
    completion) list+=(bash zsh fish) ;;
    compare) case "$2" in -*) ;; *) list=(); files=1 ;; esac ;;
  esac
}}
"""


def _bash() -> str:
    return f"""\
# Completion of s2sjax for bash. In ~/.bashrc:  eval "$(s2sjax completion bash)"
{_shell_functions()}
_s2sjax() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" current reply
  local -a list=()
  local files=0
  current="${{line##*[[:space:]]}}"
  if [ "$COMP_CWORD" = 1 ]; then
    list=("${{_s2sjax_commands[@]}}" --help --version)
  else
    _s2sjax_candidates "${{COMP_WORDS[1]}}" "$current"
  fi
  COMPREPLY=()
  if [ "$files" = 1 ]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -f -- "${{current#*=}}")
    return
  fi
  for reply in "${{list[@]}}"; do
    if [[ "$reply" == "$current"* ]]; then
      # Where bash takes "=" for the end of a word, what stands before it is not replaced.
      if [[ "$current" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then reply="${{reply#*=}}"; fi
      COMPREPLY+=("$reply")
      case "$reply" in *= | *.) compopt -o nospace 2>/dev/null ;; esac
    fi
  done
}}
complete -F _s2sjax s2sjax
"""


def _zsh() -> str:
    return f"""\
#compdef s2sjax
# Completion of s2sjax for zsh. In ~/.zshrc, after compinit:  eval "$(s2sjax completion zsh)"
{_shell_functions()}
_s2sjax() {{
  local current="${{words[CURRENT]}}"
  local -a list
  local files=0 each
  if (( CURRENT == 2 )); then
    list=("${{_s2sjax_commands[@]}}" --help --version)
  else
    _s2sjax_candidates "${{words[2]}}" "$current"
  fi
  if [ "$files" = 1 ]; then
    compset -P '*='
    _files
    return
  fi
  for each in "${{list[@]}}"; do
    case "$each" in
      *= | *.) compadd -S '' -- "$each" ;;
      *) compadd -- "$each" ;;
    esac
  done
}}
compdef _s2sjax s2sjax
"""


def _fish() -> str:
    lines = ["# Completion of s2sjax for fish:  s2sjax completion fish | source", "complete -c s2sjax -f"]
    lines += [
        "complete -c s2sjax -l help -d 'Explain a command.'",
        "complete -c s2sjax -n __fish_use_subcommand -l version -d 'Print versions.'",
    ]
    for name, command in COMMANDS.items():
        summary = shlex.quote(command.summary)
        lines.append(f"complete -c s2sjax -n __fish_use_subcommand -a {name} -d {summary}")
        for option in command.options:
            listed = option.choices or option.known
            takes = f" -x -a {shlex.quote(' '.join(listed))}" if listed else " -rF"
            takes = "" if option.switch else takes
            meaning = shlex.quote(option.meaning.split(". ")[0])
            seen = f"'__fish_seen_subcommand_from {name}'"
            lines.append(f"complete -c s2sjax -n {seen} -l {option.name}{takes} -d {meaning}")
    lines.append("complete -c s2sjax -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'")
    lines.append("complete -c s2sjax -n '__fish_seen_subcommand_from compare' -F")
    seen = shlex.quote("__fish_seen_subcommand_from " + " ".join(n for n, c in COMMANDS.items() if c.config != "none"))
    meanings = {f"--config.{key.name}": key.meaning for key in config_keys()}
    for key, values in _keys().items():
        known = f" -a {shlex.quote(' '.join(values))}" if values else ""
        meaning = shlex.quote(meanings[key].split(". ")[0][:80])
        lines.append(f"complete -c s2sjax -n {seen} -l {key.removeprefix('--')} -x{known} -d {meaning}")
    return "\n".join(lines) + "\n"


SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
