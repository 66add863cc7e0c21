"""How commands meet the machine: output that is not UTF-8, pipes without a reader, half of a launcher's variables, and what is
wrong with a disk, a path or a permission."""

import errno
import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main as matl_data
from helpers.shard_sets import ShardSet
from matl_scale import errors
from matl_scale.cli import run_command
from matl_scale.doctor.__main__ import main as matl_doctor
from matl_scale.errors import InputError, check_writable, explain_os_error, one_line
from matl_scale.launcher import LaunchedRank, read_launch
from matl_scale.text import escape_name
from matl_scale.train.health.slurm import read_job
from matl_scale.train.process_group import build_accelerator

ROOT = Path(__file__).parents[2]
COMMANDS = dict(re.findall(r'^(matl-\w+) = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
CODECS = ("ascii", "latin-1", "cp1252")  # LANG=C without Python's UTF-8 mode; old Windows and Linux consoles
Output = Callable[[str], io.BytesIO]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Gives standard output and error an encoding, as PYTHONIOENCODING does; returns the bytes of standard output."""

    def encode(encoding: str) -> io.BytesIO:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace"))
        return raw

    return encode


@pytest.mark.filterwarnings("ignore")  # what the commands import warns
@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_help_in_any_encoding(command: str, encoding: str, output: Output) -> None:
    """Reports: `UnicodeEncodeError: 'ascii' codec can't encode character` from `--help` in containers and cron jobs."""
    module, function = COMMANDS[command].split(":")
    main = getattr(importlib.import_module(module), function)
    raw = output(encoding)
    try:
        code = main(["--help"])
    except SystemExit as end:
        code = end.code
    assert not code
    assert b"usage: " in raw.getvalue()


@pytest.mark.parametrize("encoding", CODECS)
def test_a_summary_shows_what_the_encoding_lacks_as_escapes(encoding: str, output: Output, small_set: ShardSet) -> None:
    """The same from a command whose text is no constant: rich's tables, and signs such as × and σ."""
    raw = output(encoding)
    assert matl_data(["info", str(small_set.root)]) == 0
    assert b"task_5" in raw.getvalue()
    assert run_command("x", lambda: print("90 images × 6 tasks at σ − …") or 0) == 0
    shown = raw.getvalue().splitlines()[-1]
    assert shown.endswith(rb"6 tasks at \u03c3 \u2212 " + ("…".encode(encoding, "backslashreplace")))


def test_a_choice_of_the_user_stays(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONIOENCODING=ascii:replace asks for question marks."""
    raw = output("ascii")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="replace"))
    assert run_command("x", lambda: print("σ") or 0) == 0
    assert raw.getvalue() == b"?\n"


def test_a_pipe_that_nobody_reads_ends_a_command_quietly(small_set: ShardSet) -> None:
    """Reports: `BrokenPipeError` and "Exception ignored" after `command | head -1`; a latin-1 terminal beside it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    for unbuffered, arguments in (("1", ["verify", "--quick"]), ("", ["verify", "--quick"]), ("", ["info"])):
        environment["PYTHONUNBUFFERED"] = unbuffered
        command = [sys.executable, "-m", "data_prep", *arguments, str(small_set.root)]
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (1, b"")


def test_another_pipe_is_no_reader_that_left(capsys: pytest.CaptureFixture[str]) -> None:
    """A broken pipe to a worker or a server must not end a command as if its work was done."""

    def work() -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        run_command("x", work)
    assert capsys.readouterr().err == ""


FULL = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
VARIABLES = (*FULL, "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_JOB_NUM_NODES")


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in FULL.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "Set: RANK=0. Missing: WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."),
        ({"LOCAL_RANK": "0"}, "Set: LOCAL_RANK=0. Missing: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT."),
        ({"WORLD_SIZE": "2"}, "Missing: RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."),
        ({"LOCAL_WORLD_SIZE": "4"}, "Set: LOCAL_WORLD_SIZE=4. Missing: RANK"),
        (without("MASTER_ADDR", "MASTER_PORT"), "Missing: MASTER_ADDR, MASTER_PORT. Start several processes with"),
        (without("WORLD_SIZE"), "unset RANK LOCAL_RANK MASTER_ADDR MASTER_PORT."),
        ({"WORLD_SIZE": "two"}, "The environment variable WORLD_SIZE should be a whole number. Got 'two'."),
        ({**FULL, "RANK": "-1"}, "RANK should be a whole number. Got '-1'."),
        ({**FULL, "RANK": "2"}, "RANK should be below WORLD_SIZE"),
        ({**FULL, "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK below LOCAL_WORLD_SIZE"),
        ({**FULL, "MASTER_PORT": "70000"}, "MASTER_PORT should be a port, 1 to 65535. Got 70000."),
        ({"PMI_SIZE": "2"}, "MASTER_ADDR is missing. Set: PMI_SIZE=2."),
    ],
)
def test_half_of_a_launchers_variables_are_named(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports: `KeyError: 'MASTER_ADDR'` and endless waits, from an old `export RANK=…` or a half copied job script."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        read_launch()
    assert message in str(error.value)
    with pytest.raises(InputError, match=r"\."):  # train and evaluate
        build_accelerator("fp32")
    with pytest.raises(SystemExit) as end:
        matl_doctor(["--data.path", "nowhere"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        ({}, LaunchedRank()),
        ({"MASTER_ADDR": "node1", "MASTER_PORT": "1234"}, LaunchedRank()),  # of a job's script
        ({"WORLD_SIZE": "1"}, LaunchedRank()),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, LaunchedRank()),  # a replica alone
        ({"RANK": "", "WORLD_SIZE": ""}, LaunchedRank()),
        (FULL, LaunchedRank(rank=1, world_size=2)),
        ({**FULL, "LOCAL_WORLD_SIZE": "2"}, LaunchedRank(rank=1, world_size=2, local_world_size=2)),
    ],
)
def test_what_launchers_and_single_processes_have_is_taken(environment: dict[str, str], launched: LaunchedRank) -> None:
    assert read_launch(environment) == launched


@pytest.mark.parametrize("name", ["SLURM_JOB_NUM_NODES"])
def test_leftovers_of_a_job_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interactive shell of Slurm leaves its variables behind, sometimes as `2(x3)`."""
    monkeypatch.setenv(name, "2(x3)")
    with pytest.raises(SystemExit) as end:
        matl_doctor(["--data.path", "nowhere"])
    assert end.value.code == 2
    assert f"{name} should be a whole number. Got '2(x3)'. Correct it, or: unset {name}." in capsys.readouterr().err


@pytest.fixture
def folder_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Takes a permission away from a folder, for root too."""

    def deny(mode: int) -> Path:
        def access(path: object, asked: int) -> bool:
            return not (Path(str(path)) == tmp_path / "closed" and asked & mode)

        (tmp_path / "closed").mkdir()
        monkeypatch.setattr(errors.os, "access", access)
        return tmp_path / "closed"

    return deny


def test_what_may_not_be_read_is_not_said_to_be_written(folder_without: Callable[[int], Path]) -> None:
    """Reports: "choose a folder that you may write" about images that cannot be read."""
    closed = folder_without(os.R_OK)
    assert explain_os_error(PermissionError(errno.EACCES, "Permission denied", str(closed))) == (
        f"{closed}: Permission denied. Choose one that you may read, or change its permissions."
    )


def test_below_a_folder_that_may_not_be_entered_nothing_can_be_read(folder_without: Callable[[int], Path]) -> None:
    inside = folder_without(os.X_OK) / "a.jpg"
    explained = explain_os_error(PermissionError(errno.EACCES, "Permission denied", str(inside)))
    assert explained is not None
    assert explained.endswith("Choose one that you may read, or change its permissions.")


def test_what_may_not_be_written_is_said_to_be_so(folder_without: Callable[[int], Path]) -> None:
    closed = folder_without(os.W_OK)
    explained = explain_os_error(PermissionError(errno.EACCES, "Permission denied", str(closed / "new")))
    assert explained is not None
    assert explained.endswith("Choose a folder that you may write, or change its permissions.")


@pytest.mark.parametrize(
    ("number", "path", "remedy"),
    [
        (errno.ENOSPC, None, "Free some space, then start again."),
        (errno.ENOENT, "a/b.csv", "Check the path; nothing of that name is there now."),
        (errno.ENOTDIR, "a.csv/b", "it leads through a file as if that were a folder."),
        (errno.EISDIR, "a", "Give the path of a file; this is a folder."),
        (errno.ENAMETOOLONG, "a" * 300, "Choose a shorter name."),
        (errno.EMFILE, None, "Raise the limit on open files (ulimit -n), or use fewer workers."),
        (errno.EROFS, b"\xff/a", "Choose a folder that can be written."),
    ],
)
def test_every_kind_of_file_error_has_its_remedy(number: int, path: str | bytes | None, remedy: str) -> None:
    explained = explain_os_error(OSError(number, os.strerror(number), path))
    assert explained is not None
    assert explained.endswith(remedy)
    assert explained.isprintable()


def test_errors_without_a_path_stay_bugs() -> None:
    """A trace is worth more than a line where the system says neither what nor where."""
    for error in (FileNotFoundError(errno.ENOENT, "x"), OSError("no number"), OSError(errno.EBADF, "x", 7)):
        assert explain_os_error(error) is None


def test_an_output_is_refused_with_the_remedy_of_its_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written: there is no folder .*nowhere\. Make it first"):
        check_writable("--out", tmp_path / "nowhere/x.parquet")
    with pytest.raises(InputError, match=r"File name too long\. Choose a shorter name\."):
        check_writable("--out", tmp_path / ("x" * 300))


def test_no_message_has_a_memory_address() -> None:
    """Reports: lists of damaged files that differ in every run by `<_io.BytesIO object at 0x7f…>`."""
    texts = {one_line(ValueError(f"cannot identify image file {io.BytesIO()!r}")) for _ in range(3)}
    assert texts == {"cannot identify image file <_io.BytesIO object>"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\udce9.jpg", r"caf\xe9.jpg"),  # Latin-1 names in an old archive
        ("\udcc3\udca9.jpg", "é.jpg"),  # Python under LANG=C does not decode what is UTF-8
        ("a\ud800", r"a\ud800"),  # half of a UTF-16 pair
        ("é 漢字\\x.jpg", "é 漢字\\x.jpg"),
    ],
)
def test_names_that_are_not_utf_8_are_escaped(name: str, shown: str) -> None:
    assert escape_name(name) == shown


def test_half_of_an_array_jobs_variables_ask_about_the_job_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interactive shell inside an array job; a node whose answer is in Latin-1."""
    (tmp_path / "scontrol").write_bytes(b"#!/bin/sh\nprintf 'JobId=%s Comment=caf\\351\\n' \"$3\"\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert read_job({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5"})["JobId"] == "7"
    assert read_job({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})["JobId"] == "5_2"
