"""The command line: run, chat, serve, export, inspect, plan, bench, pull, doctor. Text goes to stdout, all else to stderr.

Exit codes: 0 fine, 1 a typed error (one line), 2 usage, 130 interrupted.
"""

# Heavy imports stand inside the commands: --help answers at once, and Ctrl-C finds main() already in charge.
import argparse
import contextlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from wasmrt import __version__
from wasmrt.errors import ContextFull, WasmrtError
from wasmrt.options import KV_TYPES, MAX_THREADS, POLICIES, EngineOptions, SamplerOptions, parse_bytes

if TYPE_CHECKING:
    from wasmrt.sync import SyncGeneration, SyncModel

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

# Escape sequences can do much to a terminal; each control character but tab and line feed becomes its picture (U+2400 on).
VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)

# Of the context, kept free for an answer: below that a chat forgets its oldest turns.
ANSWER_SHARE = 0.25

WHERE = "a GGUF file, its URL, or hf:owner/repo:QUANT"

CHAT_HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    _prepare_streams()
    logging.getLogger("wasmrt").addHandler(Notes())
    warnings.showwarning = lambda message, *_, **__: _say("note", message)
    try:
        args = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except WasmrtError as error:
        code = _fail(error, EXIT_ERROR)
        if "NaN or infinity" in str(error):
            _say("note", "wasmrt inspect --check-weights names the tensor, if one is damaged")
        return code
    except OSError as error:
        # Whoever read our text has left, or the disk is full; the interpreter's own last flush must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return EXIT_ERROR
        return _fail(f"cannot write the output: {error.strerror or error}", EXIT_ERROR)


def _prepare_streams() -> None:
    """Whatever the terminal's encoding, a character that it lacks shows as "?"; a closed stream is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  open until the program ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


class Notes(logging.Handler):
    """Shows what the library logs as a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        _say("note", record.getMessage())


def _say(kind: str, message: object) -> None:
    """One line on stderr, with control characters shown: parts of messages come from files."""
    print(f"{kind}: {' '.join(str(message).split())}".translate(VISIBLE), file=sys.stderr)


def _fail(error: object, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    _say("error", error)
    return code


# The commands


def run(args: argparse.Namespace) -> int:
    """Continue a prompt."""
    sampler = _sampler(args)
    with _opened(args) as model:
        _announce(model)
        prompt = args.ids if args.ids is not None else args.prompt
        options = {"max_tokens": args.n, "stop": args.stop, "parse_special": args.special, **sampler}
        generation = _usage(lambda: model.generate(prompt, **options))
        if args.json:
            code = 0
            try:
                for _ in generation:
                    pass
            except KeyboardInterrupt:  # what there is so far is still worth having
                generation.stats.finish, code = "interrupted", EXIT_INTERRUPTED
            _print_json(
                model=model.name,
                device=model.stats.device,
                adapter=model.stats.adapter,
                threads=model.stats.threads,
                prompt_tokens=generation.prompt_tokens,
                tokens=generation.tokens,
                text=generation.text,
                stats=generation.stats.as_dict(),
                store=model.stats.store,
                load_seconds=model.stats.load_seconds,
            )
            return code
        if isinstance(prompt, str) and not args.no_prompt:
            _write(prompt)
        _stream(generation)
        _write("\n")
        print(_statistics(model, generation), file=sys.stderr)
    return 0


def chat(args: argparse.Namespace) -> int:
    """Talk with a model, turn by turn."""
    sampler = _sampler(args)
    system = [{"role": "system", "content": args.system}] if args.system else []
    history: list[dict[str, str]] = list(system)
    with _opened(args) as model:
        _announce(model)
        _ = model.tokenizer  # a file without one cannot chat: say so before the first question
        _say(model.config.name or model.name, CHAT_HELP)
        while (line := _ask()) is not None:
            if line in ("/exit", "/quit"):
                break
            if line == "/reset":
                history = list(system)
                print("The conversation starts anew.", file=sys.stderr)
            elif line.startswith("/"):
                print(CHAT_HELP, file=sys.stderr)
            elif line:
                history.append({"role": "user", "content": line})
                try:
                    _answer(model, history, len(system), args, sampler)
                except (ValueError, WasmrtError) as error:  # of this message: the conversation goes on without it
                    history.pop()
                    _fail(error, EXIT_ERROR)
    return 0


def _ask() -> str | None:
    """A line of the person's, or None at the end of input. Ctrl-C at the prompt only clears the line."""
    while True:
        try:
            if not sys.stdin.isatty():
                return input().strip()
            if not sys.stdout.isatty():  # input() would write its prompt among the answers
                print("> ", end="", file=sys.stderr, flush=True)
            return input("> " if sys.stdout.isatty() else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            print(f"\n{CHAT_HELP}", file=sys.stderr)


def _answer(
    model: "SyncModel", history: list[dict[str, str]], n_system: int, args: argparse.Namespace, sampler: dict[str, Any]
) -> None:
    """Stream an answer and add it to the history; Ctrl-C ends the answer and keeps what was said."""
    text, finish = "", ""
    try:
        generation = _begin_answer(model, history, n_system, args, sampler)
        for piece in generation:
            text += piece
            _write(piece)
        finish = generation.stats.finish
    except KeyboardInterrupt:
        _write(" [stopped]")
    _write("\n")
    if finish == "context":
        _say("note", "the answer ends here because the context is full; /reset starts anew")
    history.append({"role": "assistant", "content": text})


def _begin_answer(
    model: "SyncModel", history: list[dict[str, str]], n_system: int, args: argparse.Namespace, sampler: dict[str, Any]
) -> "SyncGeneration":
    """A conversation that leaves too little room for an answer loses its oldest turns; ContextFull if one turn is too long."""
    context = model.plan.context
    while True:
        single = len(history) <= n_system + 1
        try:
            generation = model.chat(history, max_tokens=args.n, stop=args.stop, **sampler)
            if single or context - len(generation.prompt_tokens) >= context * ANSWER_SHARE:
                return generation
        except ContextFull:
            if single:
                raise
        del history[n_system : n_system + 2]
        _say("note", "the context is nearly full, so the oldest turn was forgotten")


def serve(args: argparse.Namespace) -> int:
    """Serve the page, and models by range, until Ctrl-C."""
    from wasmrt.serve.server import serve as answer_requests

    def started(address: str) -> None:
        _write(f"{address}\n")
        if args.open:
            _open_browser(address)

    answer_requests(
        args.model,
        args.host,
        args.port,
        key=args.key,
        public=args.public,
        cors=args.cors,
        bytes_per_second=args.throttle,
        latency_seconds=args.latency,
        started=started,
    )
    return 0


def _open_browser(address: str) -> None:
    """On a machine with a screen. Where there is none, a browser for terminals would take ours, and the server with it."""
    import threading
    import webbrowser

    chosen = any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    if not chosen and sys.platform not in ("win32", "darwin"):
        _say("note", "there is no screen here to open a browser on; open the address above in one")
        return

    def run() -> None:  # some browsers are waited for until they end
        if not webbrowser.open(address):
            _say("note", "no browser could be opened; open the address above in one")

    threading.Thread(target=run, name="wasmrt-browser", daemon=True).start()


def export(args: argparse.Namespace) -> int:
    """Write the page as a static site."""
    from wasmrt.export import export as write_site
    from wasmrt.speed import gb

    with _bar("copying", unit="B", unit_scale=True, unit_divisor=1024) as progress:
        done = write_site(args.folder, args.model, demo=not args.no_demo, force=args.force, progress=progress)
    for name in done.linked:
        _say("note", f"{name} is there as a hard link: one file on the disk, under two names")
    _say("note", f"{_plural(len(done.files), 'file')}, {gb(done.n_bytes)}; see docs/hosting.md for what a host should send")
    _write(f"{done.folder}\n")
    return 0


def inspect(args: argparse.Namespace) -> int:
    """Say what is in a file, from its header alone unless its weights are to be checked."""
    from wasmrt.inspect import check_weights, describe, summary, weights_line
    from wasmrt.sync import call

    found, checked = call(describe(args.model)), None
    if args.check_weights:
        with _bar("checking", unit="B", unit_scale=True, unit_divisor=1024) as progress:
            checked = call(check_weights(args.model, progress))
    if args.json:
        _print_json(**found, **({} if checked is None else {"weights": checked}))
    else:
        _write(summary(found, tensors=args.tensors) + ("" if checked is None else weights_line(checked)))
    return EXIT_ERROR if checked and checked["damaged"] else 0


def plan(args: argparse.Namespace) -> int:
    """Say what a model would take within a budget, and how fast it would be, before its weights are loaded."""
    from wasmrt.planning import examine, report
    from wasmrt.sync import call

    if unused := [name for name in ("prefetch", "draft") if getattr(args, name) is not None]:
        _say("note", f"a plan does not depend on: {', '.join(unused)}")
    names = ("device", "memory", "gpu_memory", "context", "threads", "kv_type", "policy")
    options = _usage(lambda: EngineOptions(**{name: getattr(args, name) for name in names}))
    found = call(examine(args.model, options, args.bandwidth, args.compute))
    if args.json:
        _print_json(**found)
    else:
        _write(report(found))
    return 0


def bench(args: argparse.Namespace) -> int:
    """Measure a model's speed."""
    from wasmrt.bench import measure, table
    from wasmrt.sync import call

    with _opened(args) as model, _bar("measuring", unit=" tok") as progress:
        measured = call(measure(model.engine, args.prompt_tokens, args.n, args.repeat, args.warmup, progress))
    if args.json:
        _print_json(**measured)
    else:
        _write(table(measured))
    return 0


def pull(args: argparse.Namespace) -> int:
    """Fetch a model, every shard of it; prints the path that the other commands take."""
    from pathlib import Path

    from wasmrt.pull import pull as fetch
    from wasmrt.sync import call

    units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    try:
        with _bar("fetching", **units) as progress, _bar("checking", **units) as checking:
            cache = Path(args.cache) if args.cache else None
            files = call(fetch(args.model, args.output, cache_dir=cache, progress=progress, checking=checking))
    except KeyboardInterrupt:
        _say("note", "what was fetched stays; the same command goes on from there")
        raise
    if args.json:
        _print_json(files=[file.as_dict() for file in files])
    else:
        _write(files[0].path + "\n")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine offers and whether wasmrt works on it."""
    from wasmrt.doctor import examine, report

    found = examine()
    if args.json:
        _print_json(**found)
    else:
        _write(report(found))
    return 0 if found["works"] else EXIT_ERROR


# What commands share


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator["SyncModel"]:
    """The model that the arguments name, with a progress bar while it loads."""
    from wasmrt.sync import load

    # What is larger than memory goes on loading while the first token is computed: so does the bar.
    with contextlib.ExitStack() as bar:
        progress = bar.enter_context(_bar("loading", unit="B", unit_scale=True, unit_divisor=1024))
        names = ("device", "memory", "gpu_memory", "context", "threads", "kv_type", "policy", "prefetch", "draft")
        model = load(args.model, progress=progress, **{name: getattr(args, name) for name in names})
        if not model.plan.streams:
            bar.close()
        with model:
            yield model


def _announce(model: "SyncModel") -> None:
    """Of a model that is larger than its budget: how fast it will be."""
    from wasmrt.speed import describe

    if model.plan.streams:
        _say("note", describe(model.plan, model.predict()))


@contextlib.contextmanager
def _bar(what: str, **units: Any) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, shown only if it takes a while; gives what moves it: progress(done, total)."""
    from tqdm import tqdm

    begun = False
    with tqdm(desc=what, delay=0.5, disable=None, leave=False, **_shape(), **units) as bar:

        def progress(done: int, total: int) -> None:
            nonlocal begun
            bar.total = total
            if not begun:  # the rate is of what comes from now on
                begun = True
                bar.initial = bar.n = bar.last_print_n = done
                bar.unpause()
            bar.update(done - bar.n)
            if done == total:
                bar.close()

        yield progress


def _shape() -> dict[str, Any]:
    """Of a terminal that does not know its size and says 0, where no bar would be drawn, a usual one; empty: as it says."""
    try:
        return {} if all(os.get_terminal_size(sys.stderr.fileno())) else {"ncols": 80, "nrows": 24}
    except (OSError, ValueError):
        return {}


def _sampler(args: argparse.Namespace) -> dict[str, Any]:
    """The sampler's settings, checked before a model is loaded."""
    from wasmrt.text import check_stops

    def check() -> "SamplerOptions":
        check_stops(args.stop)
        return SamplerOptions(args.temp, args.top_k, args.top_p, args.min_p, args.repeat_penalty, args.seed)

    _usage(check)
    return {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repeat_penalty": args.repeat_penalty,
        "seed": args.seed,
    }


def _usage(call: Callable[[], Any]) -> Any:
    """Call; a wrong argument is the user's, and ends the program with one line."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        sys.exit(_fail(error, EXIT_USAGE))


def _stream(generation: "SyncGeneration") -> None:
    for piece in generation:
        _write(piece)


def _write(text: str) -> None:
    """Print at once. On a terminal, a model's control characters are shown instead of obeyed."""
    sys.stdout.write(text.translate(VISIBLE) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields, ensure_ascii=False, allow_nan=False))


def _statistics(model: "SyncModel", generation: "SyncGeneration") -> str:
    stats, engine = generation.stats, model.stats
    threads = f", {engine.threads} threads" if engine.threads > 1 else ""
    adapter = f" ({engine.adapter})" if engine.adapter else ""
    decode = stats.decode_tokens_per_second
    rate = f"{decode:.{1 if decode >= 1 else 3}f} tok/s, " if decode else ""  # a single token is of the prompt's pass
    first = f"first token after {stats.first_token_seconds:.3f} s" if stats.generated_tokens else "none asked for"
    line = (
        f"{_plural(stats.generated_tokens, 'token')}, {rate}{first} ({_plural(stats.prompt_tokens, 'prompt token')}), "
        f"loaded in {engine.load_seconds:.2f} s, device {engine.device}{threads}{adapter}"
    )
    return f"{line}\n{_streaming(model, generation)}" if model.plan.streams and engine.passes else line


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" + ("s" if n != 1 else "")


def _streaming(model: "SyncModel", generation: "SyncGeneration") -> str:
    """What a model that is larger than its budget read, beside what it had to, and who waited for whom."""
    from wasmrt.speed import gb

    store, stats, plan = model.stats.store, generation.stats, model.plan
    seconds = max(stats.first_token_seconds + stats.decode_seconds, 1e-9)
    read, busy = store["bytes_read"], store["reading_seconds"]
    drafts = f", {stats.accepted_tokens} of {stats.drafted_tokens} guessed tokens were right" if stats.drafted_tokens else ""
    return (
        f"read {gb(read / max(1, model.stats.passes))} a pass ({gb(plan.bytes_bound)} are more than the budget holds) at "
        f"{gb(read / busy if busy else 0)}/s; waited for it {100 * store['stalled_seconds'] / seconds:.0f} % of the time, "
        f"the source was idle {100 * max(0.0, 1 - busy / seconds):.0f} %; "
        f"{store['hits']} of {store['hits'] + store['stalls']} segments were there in time, "
        f"at most {gb(store['high_water_bytes'])} of weights in memory{drafts}"
    )


# The parser


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose ValueError message is shown as it is."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _whole(minimum: int, maximum: int | None = None) -> Callable[[str], Any]:
    def check(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,18}", text) or int(text) < minimum or (maximum and int(text) > maximum):
            some = f"from {minimum} to {maximum}" if maximum else f"from {minimum} on"
            raise ValueError(f"expected a whole number {some}, not {text[:40]!r}")
        return int(text)

    return _checked(check)


def _rate(text: str) -> int | None:
    try:
        return parse_bytes(text.removesuffix("/s"))
    except ValueError:
        raise ValueError(f"expected bytes a second, such as 1.5GB or 900MB/s, not {text[:40]!r}") from None


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s)", text)
    if match is None or (seconds := float(match[1]) / (1000 if match[2] == "ms" else 1)) > 60:
        raise ValueError(f"expected a time up to a minute, such as 50ms or 0.2s, not {text[:40]!r}")
    return seconds


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s,;]{1,255}", text):
        raise ValueError(f"expected an origin such as https://example.org, or *, not {text[:60]!r}")
    default = {"http": ":80", "https": ":443"}.get(text.partition(":")[0], "")
    return text.lower().removesuffix(default)  # as browsers write it


def _key(text: str) -> str:
    from wasmrt.serve.key import checked_key

    return checked_key(text)


def _ids(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or not all(re.fullmatch("[0-9]{1,18}", p) for p in parts):
        raise ValueError(f"expected token ids such as 1,15,7, not {text[:40]!r}")
    return [int(p) for p in parts]


def _text(text: str) -> str:
    """An argument as text that can be encoded: bytes of another encoding than the terminal's become "?"."""
    return text.encode("utf-8", "replace").decode()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="wasmrt", description="Run GGUF language models.", epilog="wasmrt COMMAND --help says more.")
    parser.add_argument("--version", action="version", version=f"wasmrt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.set_defaults(command=function)
        return command

    p = add(run, "continue a prompt with a model")
    p.add_argument("model", nargs="?", metavar="MODEL", help=f"{WHERE}; without one, the bundled demo model")
    start = p.add_mutually_exclusive_group()
    start.add_argument("-p", "--prompt", type=_text, default="", help="the text to continue (default: none)")
    start.add_argument("--ids", type=_checked(_ids), metavar="IDS", help="token ids to continue instead of a text: 1,15,7")
    p.add_argument("-n", type=_whole(0), default=256, metavar="N", help="at most this many tokens (default: 256)")
    p.add_argument("--special", action="store_true", help='let text such as "<|im_end|>" in the prompt become control tokens')
    p.add_argument("--no-prompt", action="store_true", help="print only what the model adds")
    _add_sampling(p)
    _add_engine(p)
    p.add_argument("--json", action="store_true", help="print one JSON object with ids, text and statistics")

    p = add(chat, "talk with a model in the terminal")
    p.add_argument("model", nargs="?", metavar="MODEL", help=f"{WHERE}; without one, the bundled demo model")
    p.add_argument("--system", type=_text, metavar="TEXT", help="a system message to begin with")
    p.add_argument("-n", type=_whole(1), metavar="N", help="at most this many tokens an answer (default: no limit)")
    _add_sampling(p)
    _add_engine(p)

    p = add(serve, "serve the page, and models by range, to browsers on this machine")
    what = "a folder with GGUF files, also one level down, or one file; without one, the bundled demo model"
    p.add_argument("model", nargs="?", metavar="PATH", help=what)
    p.add_argument("--port", type=_whole(0, 65535), default=8400, metavar="N", help="0: any that is free (default: 8400)")
    p.add_argument("--host", default="127.0.0.1", metavar="H", help="listen there (default: 127.0.0.1, this machine alone)")
    who = p.add_mutually_exclusive_group()
    key = "ask for it in every address (default: a new one each time where other machines can come in, none elsewhere)"
    who.add_argument("--key", type=_checked(_key), metavar="KEY", help=key)
    who.add_argument("--public", action="store_true", help="ask for none there either")
    p.add_argument("--open", action="store_true", help="open the page in a browser")
    cors = "let pages of this origin read the models, such as https://example.org; *: all (repeatable)"
    p.add_argument("--cors", type=_checked(_origin), action="append", default=[], metavar="ORIGIN", help=cors)
    link = "imitate a link of so many bytes a second, such as 20MB/s, which all clients share"
    p.add_argument("--throttle", type=_checked(_rate), metavar="RATE", help=link)
    late = "begin each answer so much later, such as 50ms"
    p.add_argument("--latency", type=_checked(_seconds), default=0.0, metavar="T", help=late)

    p = add(export, "write the page as a static site, for any host or CDN")
    p.add_argument("folder", metavar="DIR", help="a folder that is empty, or an earlier export, which is replaced")
    more = "put this model there, too, linked where that is possible, else copied (repeatable)"
    p.add_argument("--model", action="append", default=[], metavar="FILE", help=more)
    p.add_argument("--no-demo", action="store_true", help="without the bundled demo model")
    p.add_argument("--force", action="store_true", help="write into a folder that has other files, too; these stay")

    p = add(inspect, "say what is in a GGUF file, from its header alone")
    p.add_argument("model", metavar="MODEL", help=WHERE)
    p.add_argument("--tensors", action="store_true", help="list every tensor")
    p.add_argument("--check-weights", action="store_true", help="read all weights; exit code 1 if one is NaN or infinite")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = add(plan, "say what a model takes within a budget, and how fast it will be")
    p.add_argument("model", metavar="MODEL", help=f"{WHERE}; its header is read, and 64 MiB at most to measure")
    rate = _checked(_rate)
    p.add_argument("--bandwidth", type=rate, metavar="B", help="bytes a second that the source gives (default: measured)")
    p.add_argument("--compute", type=rate, metavar="B", help="bytes of weights a second that kernels do (default: measured)")
    _add_engine(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = add(bench, "measure loading, prefill and decode")
    p.add_argument("model", metavar="MODEL", help=WHERE)
    p.add_argument("-p", "--prompt-tokens", type=_whole(1), default=128, metavar="N", help="length of prompt (default: 128)")
    p.add_argument("-n", type=_whole(1), default=64, metavar="N", help="tokens to generate (default: 64)")
    p.add_argument("--repeat", type=_whole(1), default=3, metavar="R", help="measure R times, report medians (default: 3)")
    p.add_argument("--warmup", action="store_true", help="run once before, uncounted")
    _add_engine(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = add(pull, "fetch a model from a URL or a model hub, once")
    p.add_argument("model", metavar="REF", help="a URL, hf:owner/repo/file.gguf, hf:owner/repo:Q4_K_M or hf:owner/repo")
    p.add_argument("-o", "--output", metavar="PATH", help="a file, or a folder ending in / (default: into the cache)")
    p.add_argument("--cache", metavar="FOLDER", help="of the cache (default: the system's folder for caches)")
    p.add_argument("--json", action="store_true", help="print one JSON object with paths and sizes")

    p = add(doctor, "say what this machine offers and whether wasmrt works on it")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_sampling(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("sampling")
    group.add_argument("--temp", type=float, default=0.8, metavar="T", help="temperature; 0: the likeliest (default: 0.8)")
    group.add_argument("--top-k", type=int, default=40, metavar="K", help="keep the K likeliest tokens; 0: all (default: 40)")
    group.add_argument("--top-p", type=float, default=0.95, metavar="P", help="of these, keep the likeliest P (default: 0.95)")
    group.add_argument("--min-p", type=float, default=0.05, metavar="P", help="drop below P x the likeliest (default: 0.05)")
    group.add_argument("--repeat-penalty", type=float, default=1.0, metavar="R", help="above 1: fewer repetitions (default: 1)")
    group.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text (default: a new one each time)")
    group.add_argument("--stop", type=_text, action="append", default=[], metavar="TEXT", help="end before TEXT (repeatable)")


def _add_engine(p: argparse.ArgumentParser) -> None:
    defaults = EngineOptions()
    group = p.add_argument_group("engine")
    devices = (
        "auto: a GPU where there is one, else the CPU; gpu (or gpu:1, gpu:NAME, gpu:0,gpu:1), cpu (or cpu:wasm32, cpu:wasm64, "
        "cpu:plain), reference (default: auto)"
    )
    group.add_argument("--device", default=defaults.device, metavar="D", help=devices)
    memory = "budget for weights, cache and activations, such as 700MiB; weights that do not fit are read as they are needed"
    group.add_argument("--memory", type=_checked(parse_bytes), metavar="B", help=memory)
    on_gpu = "budget of each GPU's own memory, such as 6GiB; weights that do not fit are copied to it as they are needed"
    group.add_argument("--gpu-memory", type=_checked(parse_bytes), metavar="B", help=on_gpu)
    group.add_argument("--context", type=_whole(1), metavar="N", help="tokens of prompt and answer (default: up to 4096)")
    threads = "threads that compute (default: one a physical core, fewer for a model of a few MB)"
    group.add_argument("--threads", type=_whole(1, MAX_THREADS), metavar="N", help=threads)
    policies = "what stays in memory of a model that is larger: plan, or to compare lru or belady (default: plan)"
    group.add_argument("--policy", choices=POLICIES, default=defaults.policy, help=policies)
    ahead = "pieces of such a model that are read ahead, at most (default: as many as help)"
    group.add_argument("--prefetch", type=_whole(0), metavar="N", help=ahead)
    guessed = "tokens that are guessed and verified together, at most (default: as many as reading leaves time for)"
    group.add_argument("--draft", type=_whole(0), metavar="N", help=guessed)
    group.add_argument(
        "--kv-type", choices=KV_TYPES, help="of the key/value cache: f32, or f16, which takes half the memory (default: f32)"
    )


if __name__ == "__main__":
    sys.exit(main())
