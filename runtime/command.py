"""A command line from a dataclass: `python -m package.verb --flag value`.

One frozen, keyword-only dataclass *is* the flag list of a command. fire splits the line; names are checked before that,
types after it, both before any work, since fire itself would run the job first and complain afterwards, and guess types
("123" becomes a number).
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import os
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field

from runtime.errors import InputError
from runtime.files import MACHINE_FAULTS
from runtime.output import check_folder, check_name
from runtime.stopping import INTERRUPTED, ProcessLost, Stopped, listening

# What a shell reports of a program whose reader has gone.
BROKEN_PIPE = 141
LARGEST_SEED = 2**63 - 1  # what an attribute of an HDF5 file holds
HELP = ("--help", "-h")
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


def flag(
    default: object = MISSING,
    help: str = "",
    *,
    choices: tuple | None = None,
    low: float | None = None,
    high: float | None = None,
    positional: bool = False,
    check: Callable[[str, typing.Any], None] | None = None,
):
    """A dataclass field that is a command-line flag.

    Args:
        default: Value without the flag; leave out for a flag that must be given.
        help: What `--help` says.
        choices: The only values allowed.
        low: Smallest number allowed.
        high: Largest number allowed.
        positional: Also accept the value as a bare word.
        check: Gets the flag as typed and its value, given or default; raises InputError when it will not do.
    """
    metadata = dict(help=help, choices=choices, low=low, high=high, positional=positional, check=check)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """Flags that every command has."""

    runs_dir: str = flag("runs", "folder of all run directories", check=check_folder)
    name: str | None = flag(
        None, "name of what is made in --runs-dir; default: from preset, data and flags", check=check_name
    )
    seed: int = flag(0, "seed of everything random", low=0, high=LARGEST_SEED)
    device: str = flag("auto", "cpu, cuda, cuda:1, … or auto")
    dtype: str = flag("auto", "compute type", choices=("auto", "float32", "bfloat16"))
    max_hours: float | None = flag(
        None, "save and stop after this long, with exit code 75; the same command goes on", low=0.0
    )
    dry_run: bool = flag(False, "print the resolved flags as JSON and stop")


@dataclass(frozen=True, kw_only=True)
class ReadingFlags(CommonFlags):
    """Of commands that put nothing into run directories, and so work where none may be made."""

    runs_dir: str = flag("runs", "folder of all run directories")


# Those of them that change where, when and under what name a run happens, not what it learns.
NOT_IDENTITY = frozenset({"runs_dir", "name", "device", "dry_run", "max_hours"})


def run_command(
    job: Callable,
    config_class: type,
    *,
    presets: Callable[[dict], dict] | None = None,
    example: str = "",
    show: Callable | None = None,
    argv: list[str] | None = None,
) -> None:
    """Parse the command line into `config_class`, run `job(config)`, and exit with its status.

    Exit codes: 0 done; 1 the machine or another process of the launch failed (one line on stderr), or there is a bug (a
    traceback); 2 the input or the place to write to is at fault (one line on stderr); 75 stopped by SIGTERM, SIGUSR1 or
    `--max-hours` with everything saved, so a batch system may queue the same command again; 130 interrupted by Ctrl-C;
    141 whoever read the output has gone, as `head` does.

    Args:
        presets: Maps the flags that were given to defaults that they imply; precedence is class default < preset <
            given. `--help` shows the defaults that follow from the flags beside it.
        example: A line for `--help` that works as pasted.
        show: `show(config)` is what `--dry-run` does; default: print the flags as JSON.
        argv: Words after the command; default: `sys.argv[1:]`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - of the processes of a launch one speaks
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name, or a terminal's encoding, may be anything
    try:
        if any(word in HELP for word in argv):
            about = sys.modules[job.__module__].__doc__ or ""
            print(about.strip(), help_text(config_class, example, _implied(argv, config_class, presets)), sep="\n\n")
        else:
            config = parse(argv, config_class, presets)
            if getattr(config, "dry_run", False):
                show(config) if show else print(json.dumps(dataclasses.asdict(config), indent=2))
            else:
                with listening(getattr(config, "max_hours", None)), _quiet_threads():
                    job(config)
                    if "runtime.processes" in sys.modules:  # which imports torch
                        sys.modules["runtime.processes"].end_processes()
        sys.stdout.flush()  # a reader that has gone shows here, not while Python shuts down
    except InputError as error:
        _end(str(error), 2)
    except Stopped as stop:
        print(f"stopped by {stop}; everything is saved, and the same command goes on from there", file=sys.stderr)
        sys.exit(stop.code)
    except ProcessLost:
        _end("another process of this launch has ended; what was saved is whole, and the same command goes on", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved last", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # of torch, which is not imported here
            raise
        said = str(error).partition(". ")[0]
        _end(f"{said}; a smaller --batch-size needs less, in training also --accumulate and --checkpoint-blocks", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in MACHINE_FAULTS:
            _end(f"{where}{error.strerror}; what was saved is whole: mend that, and the same command goes on", 1)
        if not where:
            raise
        _end(f"{where}{error.strerror}", 2)  # a file taken away, a folder that may not be read
    sys.exit(0)


def _end(reason: str, code: int) -> typing.NoReturn:
    """End with one line on stderr."""
    print(f"error: {printable(reason)}", file=sys.stderr)
    sys.exit(code)


def printable(text: str) -> str:
    """Text that may come out of a file as one line for a terminal: nothing in it moves the cursor or sets colours."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return "".join(shown)


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """No traceback of a thread that fails with the machine (TensorBoard's writer on a full disk): it hands its error on
    to the main thread, which says it in one line."""
    before = threading.excepthook

    def hook(args) -> None:
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in MACHINE_FAULTS):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def parse(argv: list[str], config_class: type, presets: Callable[[dict], dict] | None = None):
    """Turn words into an instance of `config_class`; every mistake is an InputError that names the flag."""
    known = {f.name: f for f in dataclasses.fields(config_class)}
    given = _given(argv, config_class)
    implied = presets(dict(given)) if presets else {}
    values = {name: value for name, value in {**implied, **given}.items() if name in known}
    for f in known.values():
        if f.default is f.default_factory is MISSING and f.name not in values:
            raise InputError(f"{_shown(f.name)} is needed: {f.metadata.get('help', '')}")
    try:
        config = config_class(**values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    for f in known.values():
        check, value = f.metadata.get("check"), getattr(config, f.name)
        if check is not None and value is not None:
            check(_shown(f.name), value)
    return config


def _given(argv: list[str], config_class: type) -> dict[str, object]:
    """The values on the command line, by field."""
    known = {f.name: f for f in dataclasses.fields(config_class)}
    hints = typing.get_type_hints(config_class)
    positional = [name for name, f in known.items() if f.metadata.get("positional")]
    words, texts = _split(_spelled_out(argv, hints, bool(positional)))
    for i, word in enumerate(words):
        if not positional:
            raise InputError(
                f"stray word {word!r}: every value follows a flag, as in {_shown(next(iter(known)))} {word}"
            )
        name = positional.pop(0)
        if name in texts:
            raise InputError(f"{_shown(name)} is given twice")
        if typing.get_origin(hints[name]) is tuple:  # takes all words that are left
            texts[name] = ",".join(words[i:])
            break
        texts[name] = word
    return {name: convert(name, text, hints[name], known[name].metadata) for name, text in texts.items()}


def _implied(argv: list[str], config_class: type, presets: Callable[[dict], dict] | None) -> dict[str, object]:
    """The defaults that `--help` shows beside a command line, whose mistakes are no reason to refuse help."""
    if presets is None:
        return {}
    try:
        return presets(_given([word for word in argv if word not in HELP], config_class))
    except InputError:
        return presets({})


def _split(words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Bare words, and values by flag, as text."""
    words = [*words]
    try:
        import fire
    except ImportError as error:
        if all(word.startswith("--") and "=" in word for word in words):  # nothing to split
            return [], {name.replace("-", "_"): text for name, _, text in (word[2:].partition("=") for word in words)}
        raise InputError("fire is not installed: pip install fire, or write each flag as --name=value") from error

    @fire.decorators.SetParseFn(str)  # else "123" would become a number
    def collect(*words: str, **texts: str) -> tuple[list[str], dict[str, str]]:
        return [*words], texts

    # Its own separator of words, a single dash, may be somebody's value.
    return fire.Fire(collect, command=[*words, "--", "--separator", "\0"], serialize=lambda _: None)


def _spelled_out(argv: list[str], hints: dict[str, object], has_words: bool) -> Iterator[str]:
    """The line as fire takes it: switches with their value (`--full=true`; false for `--no-full`), and nothing in it
    that fire would pass over, overwrite or keep for itself."""
    seen: set[str] = set()
    for word, following in itertools.pairwise([*argv, "--"]):
        if not word.startswith("--"):
            if word.startswith("-") and word[1:2].isalpha():
                raise InputError(f"{word!r} is no flag; flags have two dashes, as in -{word}")
            yield word
            continue
        typed, equals, text = word[2:].partition("=")
        typed = typed.replace("-", "_")
        if not typed.isidentifier():
            raise InputError(f"{word!r} is no flag; --help lists them")
        negated = typed not in hints and typed.startswith("no_") and hints.get(typed[3:]) is bool
        name = typed[3:] if negated else typed
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            hint = f"; did you mean {_shown(near[0])}?" if near else "; --help lists the flags"
            raise InputError(f"unknown flag {_shown(name)}{hint}")
        if name in seen:
            raise InputError(f"{_shown(name)} is given twice")
        seen.add(name)
        if negated and equals:
            raise InputError(f"{_shown(typed)} {text!r}: takes no value; give {_shown(typed)} or {_shown(name)}")
        alone = not equals and following.startswith("--")
        # Where bare words are allowed, `--full FILE` is a switch and a word; else the word is a mistaken value.
        alone = alone or (not equals and has_words and following.lower() not in TRUE + FALSE)
        if negated or (alone and hints[name] is bool):
            yield f"--{name}={'false' if negated else 'true'}"
        elif not equals and following.startswith("--"):
            raise InputError(f"{_shown(name)} needs a value: {_expected(hints[name])}")
        else:
            yield word


def convert(name: str, text: str, kind: object, metadata: typing.Mapping) -> object:
    """One value from its text, by the field's type.

    Raises:
        InputError: Names the flag, the value and what is expected.
    """
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    optional = type(None) in options
    kind = next(option for option in options if option is not type(None))
    if not text.strip():
        # An unset shell variable, mostly; as a path it would mean the current folder.
        raise InputError(f"{_shown(name)} is given an empty value; give {_expected(kind)}, or leave the flag out")
    if optional and text.lower() == "none":
        return None
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        value = tuple(_scalar(name, part.strip(), inner) for part in text.strip("()[]").split(",") if part.strip())
    else:
        value = _scalar(name, text, kind)
    _check(name, value, metadata)
    return value


def _scalar(name: str, text: str, kind: object) -> object:
    wrong = InputError(f"{_shown(name)} {text!r}: expected {_expected(kind)}")
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise wrong
        return text.lower() in TRUE
    try:
        number = float(text)
    except ValueError:
        raise wrong from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise wrong
    if kind is int:
        return int(text) if text.lstrip("+-").isdigit() else int(number)
    return number


def _check(name: str, value: object, metadata: typing.Mapping) -> None:
    choices, low, high = (metadata.get(key) for key in ("choices", "low", "high"))
    for part in value if isinstance(value, tuple) else (value,):
        if choices and part not in choices:
            near = difflib.get_close_matches(str(part), [str(choice) for choice in choices], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{_shown(name)} {part!r} is not one of {', '.join(map(str, choices))}{hint}")
        if low is not None and part < low:
            raise InputError(f"{_shown(name)} {part} is too small: the least is {low:g}")
        if high is not None and part > high:
            raise InputError(f"{_shown(name)} {part} is too large: the most is {high:g}")


def help_text(config_class: type, example: str = "", implied: typing.Mapping[str, object] | None = None) -> str:
    """Every flag with its meaning and its default, or the one that is `implied` by others."""
    hints = typing.get_type_hints(config_class)
    implied = implied or {}
    lines = [f"Example: {example}", ""] if example else []
    if implied:
        lines += ["Defaults follow from the flags beside --help: `--preset NAME --help` shows those of a preset.", ""]
    common = {f.name for f in dataclasses.fields(CommonFlags)}
    for f in sorted(dataclasses.fields(config_class), key=lambda f: f.name in common):
        value = implied.get(f.name, f.default)
        default = "needed" if value is MISSING else f"default: {_as_typed(value)}"
        choices = f.metadata.get("choices")
        kind = "|".join(map(str, choices)) if choices else _expected(hints[f.name], short=True)
        name = f.name.upper() if f.metadata.get("positional") else _shown(f.name)
        meaning = f.metadata.get("help", "")
        # A flag whose default depends on others says so itself.
        told = default == "default: none" and "default" in meaning
        lines.append(f"  {name} {kind}".ljust(38) + f" {meaning}" + ("" if told else f" ({default})"))
    return "\n".join(lines)


def _as_typed(value: object) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _expected(kind: object, short: bool = False) -> str:
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if typing.get_origin(kind) is tuple:
        return "LIST" if short else f"a comma-separated list, each {_expected(typing.get_args(kind)[0])}"
    names = {
        int: ("INT", "a whole number"),
        float: ("NUMBER", "a number"),
        bool: ("", "true or false"),
        str: ("TEXT", "text"),
    }
    return names[kind][0 if short else 1]  # type: ignore[index]


def _shown(name: str) -> str:
    return "--" + name.replace("_", "-")
