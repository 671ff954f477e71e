"""tools/bench_browser.py without a browser: its arguments, its prompts, which rounds count, and its table."""

import math

import pytest

from tests.gguf_files import write_llama
from tools import acceptance_browser, bench_browser
from tools.acceptance_base import Setup, Skip
from tools.bench_browser import NATIVE, PAGE, PEER, compare, parser, prompt, same, sum_up, table
from tools.bench_peers import RATES, PeerError
from wasmrt.engine import open_tokenizer
from wasmrt.resources import demo_model
from wasmrt.sync import call

PROMPTS = [(f"text {i}", [i, i + 1, i + 2, i + 3]) for i in range(7)]


@pytest.fixture(scope="module")
def tokenizer():
    return call(open_tokenizer(demo_model()))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No other process takes anything."""
    monkeypatch.setattr(bench_browser, "busy_seconds", lambda: 0.0)
    monkeypatch.setattr(bench_browser, "SETTLE_SECONDS", 0.0)


class Fake:
    """A runtime that takes a known time and writes what it is told to."""

    def __init__(self, name, first=0.5, decode=0.25, n_prompt=4, n=3, **answer):
        self.name, self.asked = name, []
        self.answer = {"first_token_seconds": first, "decode_seconds": decode, "n_prompt": n_prompt, "n": n, "cpu_seconds": 0.0,
                       "text": "abc", **answer}

    def ask(self, do, **arguments):
        self.asked.append((do, arguments))
        return self.answer


@pytest.mark.parametrize("wrong", ["--prompt 1", "--tokens 1", "--rounds 0", "--threads x", "--browser lynx"])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args([str(demo_model()), *wrong.split()])
    assert wrong.split()[0] in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args([str(tmp_path / "none.gguf")])
    assert "is no file" in capsys.readouterr().err


def test_without_a_file_there_is_nothing_to_compare(capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_browser.main([])
    assert "FILE.gguf is needed" in capsys.readouterr().err


def test_what_is_not_named_has_a_default():
    args = parser().parse_args([str(demo_model())])
    assert (args.browser, args.prompt, args.tokens, args.rounds) == ("chromium", 128, 32, 3)
    assert (args.peer, args.native, args.device, args.most_others) == (False, False, "cpu", math.inf)


@pytest.mark.parametrize("n", [16, 128])
def test_prompts_have_so_many_tokens_and_begin_differently(tokenizer, n):
    prompts = [prompt(tokenizer, n, i) for i in range(6)]
    assert all(len(ids) == n and tokenizer.tokenize(text, tokenizer.add_bos) == ids for text, ids in prompts)
    begin = 1 if tokenizer.add_bos else 0
    assert len({ids[begin] for _, ids in prompts}) == len(prompts)


def test_tokens_that_are_no_text_are_known(tmp_path):
    tokenizer = call(open_tokenizer(write_llama(tmp_path / "m.gguf")))  # which has byte tokens, but none from 0x80 on
    assert bench_browser.broken_ids(tokenizer) == []
    texts = {7: "\ufffd", 8: "a\ufffd"}
    tokenizer.detokenize = lambda ids: texts.get(ids[0], "text")
    assert bench_browser.broken_ids(tokenizer) == [7, 8]


def test_the_first_round_and_noisy_ones_do_not_count(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(bench_browser.time, "perf_counter", lambda: float(next(clock)))
    busy = iter([0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5])  # before and after each turn: the second round is noisy
    monkeypatch.setattr(bench_browser, "busy_seconds", lambda: float(next(busy)))
    page = Fake(PAGE)
    rounds = compare([page], PROMPTS, 3, 2, 0.1)
    assert [turns[PAGE]["cores_of_others"] for turns in rounds] == [0, 0]
    asked = [arguments["ids"] for _, arguments in page.asked if arguments["n"] == 3]
    assert asked == [ids for _, ids in PROMPTS[:4]]


def test_without_a_quiet_round_there_is_no_result(monkeypatch):
    busy = iter(range(100))
    monkeypatch.setattr(bench_browser, "busy_seconds", lambda: float(next(busy)))
    with pytest.raises(PeerError, match="others took more than"):
        compare([Fake(PAGE)], PROMPTS, 3, 2, 0.1)


@pytest.mark.parametrize("short", [{"n": 2}, {"n_prompt": 3}])
def test_a_turn_that_did_less_is_an_error(short):
    with pytest.raises(PeerError, match="of a prompt of 4 and wrote"):
        compare([Fake(PAGE, **short)], PROMPTS, 3, 1, math.inf)


def test_the_peer_gets_a_text_and_the_others_an_empty_cache_and_ids():
    runtimes = [Fake(PAGE), Fake(PEER), Fake(NATIVE)]
    compare(runtimes, PROMPTS[:2], 3, 1, math.inf)
    page, peer, native = (runtime.asked for runtime in runtimes)
    assert page == native == [("run", {"ids": ids, "n": n}) for _, prompt in PROMPTS[:2] for ids, n in (([5], 1), (prompt, 3))]
    assert peer == [("run", {"text": text, "n": 3}) for text, _ in PROMPTS[:2]]


def test_ratios_are_the_pages_over_the_others():
    runtimes = [Fake(PAGE, 0.5, 0.5, tokens=[1, 2, 3]), Fake(PEER, 2.0, 1.5), Fake(NATIVE, 0.25, 0.5, tokens=[1, 2, 4])]
    loaded = {runtime.name: {"about": runtime.name, "load_seconds": 1.0, "added_rss_bytes": 2**20, "peak_rss_bytes": 2**21}
              for runtime in runtimes}  # fmt: skip
    rounds = compare(runtimes, PROMPTS, 3, 3, math.inf)
    result = sum_up(loaded, rounds)
    prefill, decode = RATES
    assert result["runtimes"][PAGE][prefill]["median"] == 8  # 4 tokens in half a second
    assert result["runtimes"][PAGE][decode]["median"] == 4  # 2 after the first, in the same
    assert result["ratios"][PEER][prefill]["median"] == 4
    assert result["ratios"][PEER][decode]["median"] == 3
    assert result["ratios"][NATIVE][prefill]["median"] == 0.5
    assert result["same"] == {PEER: [1, 1, 1], NATIVE: [2 / 3] * 3}
    run = {"file": "m.gguf", "file_bytes": 2**20, "browser": "chromium", "threads": 2, "prompt_tokens": 4}
    text = table(result | run | {"generated_tokens": 3})
    assert "m.gguf, 1.0 MiB; chromium; 4 prompt tokens, 3 new; threads 2; rounds 3" in text
    assert "ratio to wllama" in text
    assert "8.0 (8.0 to 8.0)" in text
    assert "before the first difference: 67 %" in text


def test_equality_ends_at_the_first_difference():
    assert same({"tokens": [1, 2, 3, 4]}, {"tokens": [1, 2, 9, 4]}) == 0.5
    assert same({"tokens": [7], "text": "abcd"}, {"text": "abc"}) == 0.75


def test_a_file_too_large_for_the_peer_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_browser, "missing", lambda browser: None)
    file = tmp_path / "large.gguf"
    file.touch()
    with file.open("r+b") as opened:
        opened.truncate(3 * 10**9)
    with pytest.raises(PeerError, match="at most 2 GB"):
        bench_browser.measure(parser().parse_args([str(file), "--peer"]))


# Rows of tools/acceptance.py


@pytest.mark.parametrize(
    ("a_pass", "tokens", "total", "spare", "ok"),
    [(1050, [1, 2], 99, 0, True), (1051, [1, 2], 99, 0, False), (1051, [1, 2], 99, 5, True), (1000, [1, 3], 99, 0, False),
     (1000, [1, 2], 101, 0, False)],
)  # fmt: skip
def test_streaming_is_judged_by_reads_ids_and_memory(a_pass, tokens, total, spare, ok):
    first, last = ({"passes": n, "store": {"bytes_read": 7000 + a_pass * n}} for n in (1, 6))
    found = {"plan": {"bytes_bound": 1000, "total_bytes": total}, "first": first, "last": last, "tokens": tokens, "grown": 0}
    assert acceptance_browser.streamed(found, [1, 2], 100, spare).ok is ok


def test_rates_are_held_against_their_targets(monkeypatch, tmp_path):
    measured = {"runtimes": {name: {rate: {"median": 1.0} for rate in RATES} for name in (PAGE, PEER, NATIVE)},
                "ratios": {PEER: {RATES[0]: {"median": 3.5}, RATES[1]: {"median": 2.9}},
                           NATIVE: {RATES[0]: {"median": 0.9}, RATES[1]: {"median": 0.7}}},
                "threads": 2, "rounds": 3}  # fmt: skip
    monkeypatch.setattr(acceptance_browser, "beside_wllama", lambda setup: measured)
    monkeypatch.setattr(acceptance_browser, "missing", lambda engine: None)
    found = [row(Setup(tmp_path)).ok for row in acceptance_browser.ROWS[:4]]
    assert found == [True, False, True, False]


def test_without_a_browser_rows_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(acceptance_browser, "missing", lambda engine: "chromium is missing")
    for row in acceptance_browser.ROWS[:-1]:  # the last needs none
        with pytest.raises(Skip, match="chromium is missing"):
            row(Setup(tmp_path))


# How long a start takes


def starts(bare, text, others=0.0):
    turns = {"bare": bare, "plan": bare + 1, "text": text}
    return {what: {"seconds": s, "cpu_seconds": 2 * s, "cores_of_others": others} for what, s in turns.items()}


def test_starts_are_told_beyond_pyodides_own(monkeypatch):
    rounds = [starts(1.0, 2.0), starts(3.0, 9.0, others=1.5), starts(2.0, 4.5), starts(1.5, 2.0)]
    turns = [turn for each in rounds for turn in each.items()]

    def start(engine, what):
        name, turn = turns.pop(0)
        assert (engine, what) == ("chromium", name)
        return turn

    monkeypatch.setattr(bench_browser, "_start", start)
    found = bench_browser.start_times("chromium", 3, 0.5)
    assert [turn["seconds"] for turn in found["text"]] == [2.0, 4.5, 2.0]
    text = bench_browser.start_table("chromium", found)
    assert text.splitlines()[0] == "chromium, cold, 3 rounds, median (least to most)"
    assert [line.split()[-6:] for line in text.splitlines() if "beyond" in line] == [
        ["Pyodide", "1.00", "s", "(1.00", "to", "1.00)"],
        ["Pyodide", "1.00", "s", "(0.50", "to", "2.50)"],
    ]


def test_starts_on_a_busy_machine_are_none(monkeypatch):
    monkeypatch.setattr(bench_browser, "_start", lambda engine, what: starts(1.0, 2.0, others=1.5)[what])
    with pytest.raises(PeerError, match="quiet machine"):
        bench_browser.start_times("chromium", 2, 0.5)
