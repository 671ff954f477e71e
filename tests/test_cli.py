"""The command line as a user meets it: in a process of its own, with its exit codes, its one-line errors and Ctrl-C."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.gguf_files import random_tensors, write_llama, write_sparse_llama
from wasmrt.device.choice import CPU_BUILDS, DEVICES

pytestmark = pytest.mark.usefixtures("cpu")


def wasmrt(*arguments, input=None, timeout=120):
    """Run the program; returns the finished process with text output."""
    return subprocess.run(
        [sys.executable, "-m", "wasmrt", *map(str, arguments)], input=input, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def bad(tmp_path, path):
    """A file or folder for each way in which a path can be wrong."""
    whole = path.read_bytes()
    page = b"<!DOCTYPE html><html></html>" * 9
    made = {"empty": b"", "cut": whole[: len(whole) - 1000], "cut-header": whole[:100], "page": page}
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    write_llama(tmp_path / "plum", architecture="plum")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "cannot open"),
        ("folder", "irectory"),
        ("empty", "empty"),
        ("cut", "cut short"),
        ("cut-header", "cut"),
        ("page", "web page"),
        ("plum", "architecture 'plum' is not supported"),
    ],
)
@pytest.mark.parametrize("command", [("run", "-p", "x", "-n", "1"), ("bench", "-n", "1"), ("chat",)], ids=lambda c: c[0])
def test_bad_files_end_with_one_line(bad, command, name, says):
    verb, *options = command
    done = wasmrt(verb, bad / name, *options, input="")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert name in done.stderr or name == "plum"


WRONG_USAGE = [
    (["-n", "many"], "expected a whole number"),
    (["-n=--5"], "expected a whole number"),
    (["-n", "9" * 5000], "expected a whole number"),
    (["--temp", "nan"], "temperature"),
    (["--temp", "-1"], "temperature"),
    (["--top-p", "2"], "top_p"),
    (["--seed", "-3"], "seed"),
    (["--repeat-penalty", "1e-320"], "repeat_penalty"),
    (["--memory", "lots"], "no amount of memory"),
    (["--memory", "9" * 400], "no amount of memory"),
    (["--context", "0"], "whole number from 1"),
    (["--stop", ""], "stop string"),
    (["--kv-type", "q8_0"], "invalid choice: 'q8_0'"),
    (["--threads", "0"], "whole number from 1"),
    (["--threads", "9" * 12], "whole number from 1 to 1024"),
    (["--frobnicate"], "unrecognized arguments"),
]
ONLY_RUN = [(["-n", "-1"], "expected a whole number from 0 on, not '-1'"), (["--ids", "1,x"], "expected token ids")]


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [("run", *case) for case in WRONG_USAGE + ONLY_RUN] + [("chat", *case) for case in WRONG_USAGE],
)
def test_wrong_usage_ends_with_one_line(path, command, options, says):
    done = wasmrt(command, path, *options, input="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


def test_an_unknown_device_and_a_long_prompt(path):
    done = wasmrt("run", path, "--device", "tpu")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "device 'tpu' is unknown" in done.stderr
    done = wasmrt("run", path, "-p", "a" * 500)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the context holds 64" in done.stderr
    done = wasmrt("run", path, "--memory", "1KiB")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "memory budget" in done.stderr


def test_run_prints_text_and_then_one_line_of_statistics(path):
    done = wasmrt("run", path, "-p", "the", "-n", 8, "--temp", 0)
    assert done.returncode == 0
    assert done.stdout.startswith("the")
    assert done.stdout.endswith("\n")
    assert done.stderr.count("\n") == 1
    for word in ("tokens", "tok/s", "loaded in", "device cpu"):
        assert word in done.stderr


@pytest.mark.parametrize(
    ("n", "begins"), [(0, "0 tokens, none asked for (1 prompt token)"), (1, "1 token, first token after ")]
)
def test_statistics_of_what_was_not_measured_are_left_out(path, n, begins):
    done = wasmrt("run", path, "--ids", 1, "-n", n, "--memory", "800KiB")
    assert done.returncode == 0
    line = next(line for line in done.stderr.splitlines() if "device cpu" in line)
    assert line.startswith(begins)
    assert "tok/s" not in line
    assert ("a pass" in done.stderr) == (n > 0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (24, 90)])
def test_a_bar_on_a_terminal_counts_what_comes_from_its_start(rows, columns):
    """Half was there before; the rate is of the rest. A terminal of no size gets a bar as well."""
    import fcntl
    import pty
    import struct
    import termios

    program = (
        "import time\nfrom wasmrt.cli import _bar\n"
        "with _bar('fetching', unit='B', unit_scale=True) as progress:\n"
        "    for done in range(500, 1000, 10): progress(done * 10**6, 10**9); time.sleep(0.02)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0
    rates = [int(rate) for rate in re.findall(rb"([0-9]+)MB/s", shown)]
    assert rates, shown
    assert max(rates) <= 500  # 10 MB in 20 ms at most, though 500 MB were there at once


@pytest.mark.parametrize(
    ("options", "device", "threads"),
    [
        ((), "cpu", None),
        (("--threads", 3), "cpu", 3),
        (("--device", "cpu:plain"), "cpu", 1),
        (("--device", "reference"), "reference", 1),
    ],
    ids=str,
)
def test_run_says_what_computed(path, options, device, threads):
    """In JSON, and in the line for a person: more threads than one are worth a word."""
    command = ("run", path, "-p", "the", "-n", 2, *options)
    found = json.loads(wasmrt(*command, "--json").stdout)
    assert found["device"] == device
    assert found["threads"] == threads or (threads is None and found["threads"] >= 1)
    ending = f"device {device}, {found['threads']} threads\n" if found["threads"] > 1 else f"device {device}\n"
    assert wasmrt(*command).stderr.endswith(ending)


def test_kv_type_reaches_the_model(path):
    """bench shows the plan: half the cache."""
    command = ("bench", path, "-p", 4, "-n", 2, "--repeat", 1, "--json", "--kv-type")
    f32, f16 = (json.loads(wasmrt(*command, kv_type).stdout)["plan"]["kv_bytes"] for kv_type in ("f32", "f16"))
    assert f32 == 2 * f16


def test_run_json(path):
    done = wasmrt("run", path, "--ids", "1,40,41", "-n", 5, "--temp", 0, "--json")
    found = json.loads(done.stdout)
    assert found["prompt_tokens"] == [1, 40, 41]
    assert len(found["tokens"]) == found["stats"]["generated_tokens"] <= 5
    assert found["stats"]["finish"] in ("length", "stop")


@pytest.mark.reference
def test_the_golden_story(reference_dir):
    """The command of the guide: ids and text are those of the model's author."""
    folder = reference_dir / "stories260K"
    golden = json.loads((folder / "golden.json").read_text())
    done = wasmrt("run", folder / "stories260K.gguf", "-p", "", "-n", 200, "--temp", 0, "--json")
    assert json.loads(done.stdout)["tokens"] == golden["greedy_ids"][1:201]
    plain = wasmrt("run", folder / "stories260K.gguf", "-p", "", "-n", 200, "--temp", 0)
    assert plain.stdout.split() == json.loads(done.stdout)["text"].split()
    assert " ".join(golden["text_karpathy_doc"].split()).startswith(" ".join(plain.stdout.split())[:400])


def test_bench_json_has_the_promised_keys(path):
    done = wasmrt("bench", path, "--device", "reference", "--prompt-tokens", 16, "-n", 4, "--repeat", 2, "--warmup", "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    found = json.loads(done.stdout)
    assert {
        "model",
        "device",
        "threads",
        "prompt_tokens",
        "generated_tokens",
        "load_seconds",
        "first_token_seconds",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "bytes_per_pass",
        "bytes_bound",
        "stalled_seconds",
        "peak_rss_bytes",
        "plan",
    } <= set(found)
    assert (found["prompt_tokens"], found["generated_tokens"], len(found["samples"])) == (16, 4, 2)
    assert found["decode_tokens_per_second"] > 0
    assert found["peak_rss_bytes"] > 10_000_000
    assert found["bytes_per_pass"] == found["bytes_bound"] == 0  # everything is resident


def test_bench_for_a_person(path):
    done = wasmrt("bench", path, "--device", "reference", "-p", 8, "-n", 4)
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("device       reference, 1 thread\n", "measured     8 prompt tokens, 4 new\n", "decode  ", "peak memory "):
        assert line in done.stdout
    refused = wasmrt("bench", path, "--repeat", 0)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_inspect(path):
    shown = wasmrt("inspect", path, "--tensors")
    assert shown.returncode == 0
    assert "runs: yes" in shown.stdout
    assert "blk.1.ffn_down.weight" in shown.stdout
    found = json.loads(wasmrt("inspect", path, "--json").stdout)
    assert found["config"]["n_layers"] == 2
    assert found["metadata"]["llama.embedding_length"] == 64
    refused = wasmrt("inspect", write_llama(path.with_name("plum.gguf"), architecture="plum"))
    assert refused.returncode == 0
    assert "runs: no, architecture 'plum'" in refused.stdout


def test_help_is_complete():
    """Every command and option has its help line."""
    top = wasmrt("--help").stdout
    for command in ("run", "chat", "serve", "export", "inspect", "plan", "bench", "pull", "doctor"):
        assert command in top
        shown = wasmrt(command, "--help").stdout
        assert "None" not in shown
        assert all(len(line) <= 100 for line in shown.splitlines())
        if command in ("run", "chat", "plan", "bench"):
            for word in (*DEVICES, *(f"cpu:{build}" for build in CPU_BUILDS), "--kv-type {f32,f16}", "--threads N"):
                assert word in shown
    assert wasmrt().returncode == 2


def endless_llama(path):
    """A random model that never ends its answer: the end token's logit is 0, and with --top-k 5 others always win."""
    output = random_tensors(0)["output.weight"].copy()
    output[2] = 0
    return write_llama(path, changes={"context_length": 4096}, tensors={"output.weight": output})


def started(arguments, **options):
    """The program in a process that can be interrupted, whatever the test runner does with Ctrl-C itself."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "wasmrt", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def read_until(process, stream, wanted):
    """Read from a stream of the process until `wanted` has come; returns all that was read. A minute at most."""
    seen, pipe, deadline = b"", getattr(process, stream), time.monotonic() + 60
    while wanted not in seen:
        ready, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
        chunk = os.read(pipe.fileno(), 1) if ready else b""
        if not chunk:
            process.kill()
            pytest.fail(f"{wanted!r} did not come; {seen!r} and {process.communicate()}")
        seen += chunk
    return seen


def interrupted(arguments, stream, ready):
    """Start the program, send Ctrl-C once `ready` appears on its stdout or stderr, and return it finished."""
    process = started(arguments, stdin=subprocess.DEVNULL)
    seen = {"stdout": b"", "stderr": b"", stream: read_until(process, stream, ready)}
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    return process.returncode, (seen["stdout"] + out).decode(), (seen["stderr"] + errors).decode()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child process")
def test_ctrl_c_while_generating_keeps_the_text_and_exits_130(tmp_path):
    path = endless_llama(tmp_path / "endless.gguf")
    code, out, errors = interrupted(["run", path, "-p", "the", "-n", 4000, "--top-k", 5], "stdout", b"the")
    assert code == 130
    assert out.startswith("the")
    assert errors == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child process")
def test_ctrl_c_while_loading_exits_130(tmp_path):
    """1 GiB of weights (a sparse file) takes a while to read; the note about an option comes just before."""
    path = write_sparse_llama(tmp_path / "large.gguf", n_vocab=4 << 20)
    arguments = ["run", path, "--ids", "1", "--device", "reference", "--threads", 3]
    code, out, errors = interrupted(arguments, "stderr", b"no use for: threads\n")
    assert (code, out) == (130, "")
    assert errors.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child process")
def test_ctrl_c_in_a_chat_stops_the_answer_and_not_the_program(tmp_path):
    """The random model talks without end; it is stopped, the conversation reset, and the program left by /exit."""
    path = endless_llama(tmp_path / "endless.gguf")
    process = started(["chat", path, "--top-k", 5], stdin=subprocess.PIPE)
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 60)[0]
    process.send_signal(signal.SIGINT)
    read_until(process, "stdout", b"[stopped]\n")
    out, errors = process.communicate(b"/reset\n/help\n/exit\nnever asked\n", timeout=30)
    assert process.returncode == 0
    assert out == b""
    assert b"The conversation starts anew." in errors
    assert errors.count(b"/exit (or Ctrl-D) leaves") == 2
    assert b"no chat template; using ChatML" in errors
    assert b"Traceback" not in errors


def test_a_long_chat_forgets_its_oldest_turns_and_goes_on(tmp_path):
    """Each line of stdin is a turn. A context of 64 holds about two; a message longer than that is refused, not the program."""
    template = "{% for m in messages %}{{ m.content }}.{% endfor %}"
    path = write_llama(tmp_path / "chat.gguf", extra={"tokenizer.chat_template": template})
    done = wasmrt("chat", path, "-n", 6, "--temp", 0, input="hello there\n" * 6 + "x" * 100 + "\nhello\n")
    assert done.returncode == 0
    assert done.stdout.count("\n") >= 7
    assert done.stderr.count("the oldest turn was forgotten") >= 2
    assert "error: the prompt has 1" in done.stderr


def test_a_chat_survives_bytes_that_are_no_text(path):
    """Whatever the person types or pipes in: an answer, or one line; never the end of the program."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "wasmrt", "chat", str(path), "-n", "2", "--system", "x"]
    done = subprocess.run(command, input=b"hi \xff\nho\n", capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    done = subprocess.run([*command[:-1], b"\xff"], input=b"", capture_output=True, env=environment, timeout=60)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_and_closed_streams(path):
    """An output that cannot be written is one line; a stream that is not there is an empty one."""
    run = f"{sys.executable} -m wasmrt run {path} -p a -n 3"
    full = subprocess.run(f"{run} > /dev/full", shell=True, capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("error: cannot write the output: No space left")
    assert "Traceback" not in full.stderr
    for closed in ("<&-", ">&-", "2>&-"):
        done = subprocess.run(f"{run} {closed}", shell=True, capture_output=True, text=True)
        assert done.returncode == 0
        assert "tok/s" not in done.stdout
        assert "Traceback" not in done.stderr
    gone = subprocess.run(f"{run} -n 60 | head -c 1", shell=True, capture_output=True, text=True)
    assert gone.stdout == "a"
    assert "Traceback" not in gone.stderr


def test_names_from_a_file_do_not_reach_the_terminal_raw(tmp_path):
    """Escape sequences in metadata and templates are shown, not obeyed."""
    extra = {"general.name": "x\x1b]0;pwned\x07", "tokenizer.chat_template": "{{ raise_exception('\x1b[2J\x9b') }}"}
    done = wasmrt("chat", write_llama(tmp_path / "esc.gguf", extra=extra), input="hi\n")
    assert done.returncode == 0
    assert "the chat template refuses" in done.stderr
    assert not set("\x1b\x07\x9b") & set(done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child process")
def test_ctrl_c_with_json_still_prints_what_there_is(tmp_path):
    path = endless_llama(tmp_path / "endless.gguf")
    arguments = ["run", path, "-p", "the", "-n", 4000, "--top-k", 5, "--device", "reference", "--threads", 2, "--json"]
    process = started(arguments, stdin=subprocess.DEVNULL)
    read_until(process, "stderr", b"threads\n")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    if out:  # else it was still loading
        found = json.loads(out)
        assert found["stats"]["finish"] == "interrupted"
        assert len(found["tokens"]) >= found["stats"]["generated_tokens"] - 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child process")
def test_ctrl_c_while_measuring_exits_130(tmp_path):
    """The note about lengths that the context does not hold comes when the model is loaded and the measurement begins."""
    path = endless_llama(tmp_path / "endless.gguf")
    arguments = ["bench", path, "--device", "reference", "-p", 5000, "-n", 4000, "--repeat", 9, "--json"]
    code, out, errors = interrupted(arguments, "stderr", b"new tokens, not 5000 and 4000\n")
    assert (code, out) == (130, "")
    assert errors.count("\n") == 1
