"""The command line: names, types, bounds, presets, help, exit codes."""

import errno
import json
import os
import string
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.command import BROKEN_PIPE, CommonFlags, flag, parse, run_command
from runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Config(CommonFlags):
    """Flags of a test command."""

    file: str = flag("", "a file", positional=True)
    steps: int = flag(10, "how many", low=1)
    learning_rate: float = flag(1e-4, "the rate", low=0.0, high=1.0)
    word: str | None = flag(None, "any text")
    size: int | None = flag(None, "pixels")
    sizes: tuple[int, ...] = flag((1,), "several", low=1)
    stage: str = flag("all", "which", choices=("all", "images", "video"))
    flip: bool = flag(False, "mirror")
    keep: bool = flag(True, "keep")


def config(*words: str) -> Config:
    return parse(list(words), Config, None)


def test_values_are_converted_by_the_fields_types():
    found = config("--steps", "1e3", "--learning-rate=2e-3", "--word", "123", "--sizes", "4,5", "--flip", "--no-keep")
    assert (found.steps, found.learning_rate, found.word, found.sizes) == (1000, 2e-3, "123", (4, 5))
    assert found.flip is True and found.keep is False and isinstance(found.steps, int)


@pytest.mark.parametrize("name", ["--learning-rate", "--learning_rate"])
def test_dashes_and_underscores_are_the_same(name):
    assert config(name, "0.5").learning_rate == 0.5


def test_text_that_looks_like_something_else_stays_text():
    for text in ("123", "1e3", "True", "[1,2]", "{'a': 1}", "None,", "a b", "it's", "-1", "--"[:1] + "x"):
        assert config(f"--word={text}").word == text


def test_none_clears_an_optional_flag_and_booleans_take_words():
    assert config("--size", "none").size is None
    assert config("--flip=false").flip is False and config("--flip=yes").flip is True


def test_a_positional_field_takes_a_bare_word():
    assert config("latents.h5", "--steps", "3").file == "latents.h5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stpes", "3"], "unknown flag --stpes; did you mean --steps"),
        (["--zzz", "3"], "unknown flag --zzz; --help lists"),
        (["--steps", "many"], "--steps 'many': expected a whole number"),
        (["--steps", "1.5"], "--steps '1.5': expected a whole number"),
        (["--steps"], "--steps needs a value"),
        (["--steps", "0"], "--steps 0 is too small: the least is 1"),
        (["--learning-rate", "nan"], "expected a number"),
        (["--learning-rate", "inf"], "expected a number"),
        (["--learning-rate", "2"], "too large: the most is 1"),
        (["--stage", "vidoe"], "not one of all, images, video; did you mean video"),
        (["--sizes", "4,x"], "--sizes 'x': expected a whole number"),
        (["--flip=maybe"], "--flip 'maybe': expected true or false"),
        (["--word"], "--word needs a value: text"),
        (["--no-flip=false"], "--no-flip 'false': takes no value; give --no-flip or --flip"),
        (["--flip", "--no-flip"], "--flip is given twice"),
        (["--no-steps"], "unknown flag --no-steps; did you mean --steps"),
        (["a.h5", "--file", "b.h5"], "--file is given twice"),
        (["-steps", "3"], "'-steps' is no flag; flags have two dashes, as in --steps"),
        (["--help=1"], "unknown flag --help"),
        (["--steps", "3", "--steps", "4"], "--steps is given twice"),
        (["a.h5", "b.h5"], "stray word 'b.h5'"),
        (["--", "x"], "is no flag"),
        (["--dtype", "float64"], "not one of auto, float32, bfloat16"),
    ],
)
def test_a_mistake_is_named_with_flag_and_value(words, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        config(*words)


def test_a_switch_takes_no_bare_word_where_bare_words_are_allowed():
    for words in (["--flip", "a.h5"], ["a.h5", "--flip"], ["--flip", "true", "a.h5"]):
        assert (config(*words).flip, config(*words).file) == (True, "a.h5")
    assert (config("--no-keep", "a.h5").keep, config("--no-keep", "a.h5").file) == (False, "a.h5")


def test_values_that_fire_would_take_for_its_own_reach_the_flag():
    assert config("--word", "-", "--steps", "3").word == "-"
    assert config("--word=--help").word == "--help" and config("--size", "-1").size == -1


def test_names_that_begin_like_a_negation_stay_whole():
    @dataclass(frozen=True, kw_only=True)
    class Noisy(CommonFlags):
        """Noisy."""

        noise: bool = flag(False, "fire would read no-ise")
        no_text: str = flag("", "a name of its own")

    assert parse(["--noise", "--no-text", "x"], Noisy) == Noisy(noise=True, no_text="x")
    assert parse(["--no-noise"], Noisy) == Noisy()


def test_without_fire_a_line_must_be_split_already(monkeypatch):
    expected = config("--learning-rate", "0.5", "--word=a=b", "--no-keep", "--flip")
    monkeypatch.setitem(sys.modules, "fire", None)
    assert config("--learning-rate=0.5", "--word=a=b", "--no-keep", "--flip") == expected
    for words in (["--steps", "3"], ["a.h5"]):
        with pytest.raises(InputError, match="fire is not installed: pip install fire, or write each flag as --name="):
            config(*words)


def test_a_stray_word_is_refused_where_none_is_allowed():
    with pytest.raises(InputError, match="stray word 'train': every value follows a flag"):
        parse(["train"], CommonFlags)
    with pytest.raises(InputError, match="--dry-run 'train': expected true or false"):
        parse(["--dry-run", "train"], CommonFlags)


def test_a_flag_without_a_default_is_needed():
    @dataclass(frozen=True, kw_only=True)
    class Needy(CommonFlags):
        """Needy."""

        latents: str = flag(help="the latents file")

    with pytest.raises(InputError, match="--latents is needed: the latents file"):
        parse([], Needy)
    assert parse(["--latents", "a.h5"], Needy).latents == "a.h5"


@settings(deadline=None, database=None, max_examples=50)
@given(
    word=st.text(alphabet=string.printable + "äß漢", max_size=20).filter(
        lambda text: text.strip() and text.lower() != "none"
    ),
    steps=st.integers(1, 2**60),
    rate=st.floats(0.0, 1.0),
    sizes=st.lists(st.integers(1, 9999), min_size=1, max_size=5),
    flip=st.booleans(),
)
def test_whatever_is_typed_comes_back(word, steps, rate, sizes, flip):
    given_sizes = ",".join(map(str, sizes))
    words = [f"--word={word}", f"--steps={steps}", f"--learning-rate={rate!r}", f"--sizes={given_sizes}"]
    found = config(*words, "--flip" if flip else "--no-flip")
    assert (found.word, found.steps, found.learning_rate, found.sizes, found.flip) == (
        word,
        steps,
        rate,
        tuple(sizes),
        flip,
    )


@settings(deadline=None, database=None, max_examples=50)
@given(st.lists(st.text(alphabet="-=_ abdeflnopst.15'\"\\", max_size=8), max_size=5))
def test_any_line_is_a_config_or_an_input_error(words):
    with suppress(InputError):
        assert isinstance(config(*words), Config)


def test_presets_lie_between_the_class_and_the_flags():
    def presets(given):
        return {"steps": 77, "word": "preset"}

    found = parse(["--word", "given"], Config, presets)
    assert (found.steps, found.word, found.learning_rate) == (77, "given", 1e-4)


def test_a_value_error_of_the_dataclass_is_the_users():
    @dataclass(frozen=True, kw_only=True)
    class Checked(Config):
        """Checked."""

        def __post_init__(self):
            raise ValueError("impossible combination")

    with pytest.raises(InputError, match="impossible combination"):
        parse([], Checked, None)


def run(argv, job=lambda config: None, capsys=None):
    with pytest.raises(SystemExit) as end:
        run_command(job, Config, argv=argv, example="python -m x")
    return end.value.code, capsys.readouterr() if capsys else None


def test_errors_are_one_line_on_stderr_and_exit_2_before_any_work(capsys):
    ran = []
    code, output = run(["--stpes", "1"], ran.append, capsys)
    assert code == 2 and ran == [] and output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1


def test_an_input_error_of_the_job_exits_2_and_a_bug_keeps_its_traceback(capsys):
    def refuse(config):
        raise InputError("two\nlines")

    assert run([], refuse, capsys) == (2, ("", "error: two lines\n"))
    with pytest.raises(ZeroDivisionError):
        run_command(lambda config: 1 / 0, Config, argv=[])


def test_ctrl_c_exits_130(capsys):
    def interrupt(config):
        raise KeyboardInterrupt

    assert run([], interrupt, capsys)[0] == 130


def test_dry_run_prints_the_flags_and_does_nothing(capsys):
    ran = []
    code, output = run(["--dry-run", "--steps", "5"], ran.append, capsys)
    assert code == 0 and ran == [] and json.loads(output.out)["steps"] == 5


def test_help_shows_every_flag_with_default_and_meaning(capsys):
    code, output = run(["--help"], capsys=capsys)
    assert code == 0 and "python -m x" in output.out
    for text in (
        "--learning-rate NUMBER",
        "the rate",
        "default: 0.0001",
        "--stage all|images|video",
        "--runs-dir",
        "FILE",
        "default: 1)",
    ):
        assert text in output.out


def test_help_begins_with_what_the_command_does(capsys):
    def job(config):
        """Of this module."""

    with pytest.raises(SystemExit):
        run_command(job, Config, argv=["--help"])
    assert capsys.readouterr().out.startswith(__doc__)


@pytest.mark.parametrize(
    ("words", "rate"),
    [("--help", 0.5), ("--word large --help", 0.25), ("--help --word large", 0.25), ("--word large --hlp --help", 0.5)],
)
def test_help_shows_the_defaults_that_follow_from_the_flags_beside_it(words, rate, capsys):
    def presets(given):
        return {"learning_rate": 0.25 if given.get("word") == "large" else 0.5}

    with pytest.raises(SystemExit) as end:
        run_command(print, Config, presets=presets, argv=words.split())
    assert end.value.code == 0 and f"the rate (default: {rate})" in capsys.readouterr().out


def test_the_command_line_loads_no_torch():
    code = (
        "import sys, runtime.run, runtime.log; from runtime.command import *\n"
        "try: run_command(print, CommonFlags, argv=['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "--dry-run" in done.stdout


@pytest.mark.parametrize("words", [["--word="], ["--word", ""], ["--word", "  "], ["--sizes="], ["--steps", ""]])
def test_an_empty_value_is_refused(words):
    with pytest.raises(InputError, match=f"{words[0].rstrip('=')} is given an empty value"):
        config(*words)


def test_what_the_file_system_refuses_is_one_line_and_other_errors_are_bugs(capsys, tmp_path):
    def open_a_folder(config):
        tmp_path.read_bytes()

    def fill_the_disk(config):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail(config):
        raise OSError("no number, no file")

    def fill_the_gpu(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")

    told = "error: CUDA out of memory; a smaller --batch-size needs less, in training also --accumulate and "
    assert run([], fill_the_gpu, capsys) == (1, ("", f"{told}--checkpoint-blocks\n"))
    assert run([], open_a_folder, capsys) == (2, ("", f"error: {tmp_path}: Is a directory\n"))
    told = "error: No space left on device; what was saved is whole: mend that, and the same command goes on\n"
    assert run([], fill_the_disk, capsys) == (1, ("", told))
    with pytest.raises(OSError, match="no number"):
        run_command(fail, Config, argv=[])


@pytest.mark.parametrize("words", ["--seed 1", "--dry-run", "--help"])
def test_a_reader_that_goes_away_ends_the_command_quietly(words):
    code = (
        "import sys; from runtime.command import *\n"
        "def job(config):\n"
        "    for number in range(100_000): print(number)\n"
        f"run_command(job, CommonFlags, argv={words.split()!r})"
    )
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does once it has enough
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.returncode == BROKEN_PIPE and done.stderr == ""


def test_names_that_the_terminal_cannot_show_are_printed_all_the_same():
    code = "from runtime.command import *; run_command(lambda config: print('\\udcff 漢 …'), CommonFlags, argv=[])"
    for encoding in ("ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
        assert done.returncode == 0 and b"\\udcff" in done.stdout, done.stderr


def test_a_command_that_ends_well_leaves_its_launch(monkeypatch, tmp_path):
    import torch

    from runtime import processes

    def job(config):
        address = f"file://{tmp_path / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
        assert processes.torch.distributed.is_initialized()

    with pytest.raises(SystemExit) as ended:
        run_command(job, CommonFlags, argv=[])
    assert ended.value.code == 0 and not torch.distributed.is_initialized()
