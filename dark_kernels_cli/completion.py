"""A script for a shell: words to complete, worked out once, so that nothing runs while somebody types."""

from __future__ import annotations

from typing import Any

from .errors import UserError

_SHELLS = ("bash", "zsh")
_SCRIPT = """\
_dark_kernels() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="" each
    for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$each" in {names}) command="$each"; break;; esac
    done
    local words=""
    case "$command" in
{cases}
    esac
    COMPREPLY=()
    if [[ -z "$command" || "$word" == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    fi
}}
complete -o bashdefault -o default -F _dark_kernels dark-kernels
"""


def completion(shell: str, command: Any) -> None:
    """Print the script. `command` is the group of all commands."""
    if shell not in _SHELLS:
        raise UserError(f"SHELL: got {shell!r}, expected one of {', '.join(_SHELLS)}")
    commands = command.commands
    rows = {f'"{name}"': _options(each) for name, each in commands.items()}
    rows['""'] = [*commands, *_options(command)]
    cases = "\n".join(f'        {name}) words="{" ".join(words)}";;' for name, words in rows.items())
    script = _SCRIPT.format(names="|".join(commands), cases=cases)
    if shell == "zsh":
        script = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + script
    print(script, end="")


def _options(command: Any) -> list[str]:
    found = [word for each in command.params for word in (*each.opts, *each.secondary_opts) if word.startswith("-")]
    return [*found, "-h", "--help"]
