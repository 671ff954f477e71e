"""web/ui: what the page's plan and map compute and say. Pure functions of its modules, run under node."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node import node
from wasmrt.options import parse_bytes

UI = Path(__file__).resolve().parents[1] / "web" / "ui"
MIB, GIB = 2**20, 2**30

# Answers each line [module, function, arguments] with a line: the result.
RUNNER = """
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const [module, name, args] = JSON.parse(line);
  try {
    const { [name]: called } = await import(module);
    console.log(JSON.stringify({ result: called(...args) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """call(module, function, *arguments): what an exported function of web/ui/ gives."""
    program = node()
    folder = tmp_path_factory.mktemp("ui")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "runner.js").write_text(RUNNER)
    for module in UI.glob("*.js"):
        shutil.copy(module, folder)
    with subprocess.Popen(
        [program, folder / "runner.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(module, function, *arguments):
            process.stdin.write(json.dumps([f"./{module}", function, arguments]) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert "error" not in answer, answer
            return answer["result"]

        yield run
        process.stdin.close()


# format.js


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (1023, "1.00 KiB"),
        (640 * 1024, "640 KiB"),
        (9.996 * MIB, "10.0 MiB"),
        (412.4 * MIB, "412 MiB"),
        (999.6 * MIB, "0.98 GiB"),
        (4.07 * GIB, "4.07 GiB"),
        (18.25 * GIB, "18.3 GiB"),
        (2048 * GIB, "2.00 TiB"),
    ],
)
def test_bytes_have_three_digits_and_a_unit(call, n, said):
    assert call("format.js", "bytes", n) == said


def test_bytes_of_has_one_unit(call):
    assert call("format.js", "bytesOf", 100 * MIB, 4 * GIB) == "0.10 of 4.00 GiB"
    assert call("format.js", "bytesOf", 0, 0) == "0 of 0 B"
    assert call("format.js", "bytesOf", 20 * MIB, 48 * MIB) == "20.0 of 48.0 MiB"
    assert call("format.js", "bytesOf", 12 * MIB, 8 * GIB) == "12.0 MiB of 8.00 GiB"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0082, "8.20 ms"),
        (0.45, "0.45 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (4330, "1 h 12 min"),
        (3 * 86400, "3 days"),
        (None, "–"),
    ],
)
def test_durations(call, seconds, said):
    assert call("format.js", "duration", seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "a moment"), (37, "35 s"), (58, "1 min"), (100, "2 min"), (5000, "1 h 25 min")]
)
def test_a_wait_is_no_more_exact_than_it_is_known(call, seconds, said):
    assert call("format.js", "wait", seconds) == said


@pytest.mark.parametrize(
    ("rate", "number", "unit"),
    [
        (121.07, "121", "tokens/s"),
        (11.29, "11.3", "tokens/s"),
        (2.657, "2.7", "tokens/s"),
        (0.2685, "3.7", "s a token"),
        (0.001, "16.7", "min a token"),
        (0, "–", "tokens/s"),
        (None, "–", "tokens/s"),
    ],
)
def test_token_rates(call, rate, number, unit):
    assert call("format.js", "tokenRate", rate) == {"number": number, "unit": unit}


def test_counts_and_percents(call):
    counts = [call("format.js", "count", n) for n in (6.74e9, 135e6, 15200, 999.7e6, 2048)]
    assert counts == ["6.74 billion", "135 million", "15\u202f200", "1.00 billion", "2048"]
    percents = [call("format.js", "percent", share) for share in (0, 0.001, 0.5, 0.996, 1)]
    assert percents == ["0 %", "< 1 %", "50 %", "99 %", "100 %"]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 2**45))
def test_a_memory_text_is_enough_and_understood(call, n):
    """The engine reads what the page writes, and it is not less than what was asked for."""
    assert n <= parse_bytes(call("format.js", "memoryText", n)) < n + MIB


def test_names_of_segments(call):
    names = [call("format.js", "segmentName", name) for name in ("embedding", "blk.0", "blk.125", "head")]
    assert names == ["Embedding", "Layer 1", "Layer 126", "Head"]


# geometry.js


@settings(max_examples=100, deadline=None)
@given(n=st.integers(3, 260), width=st.floats(120, 1600))
def test_all_cells_lie_in_the_map_and_labels_apart(call, n, width):
    layout = call("geometry.js", "layoutOf", n, width)
    rects = layout["rects"]
    assert len(rects) == n
    assert all(r["x"] >= 0 and r["x"] + r["width"] <= width + 1e-6 and r["width"] >= 4 for r in rects)
    assert all(r["y"] + r["height"] < layout["height"] for r in rects)
    assert len({(r["x"], r["y"]) for r in rects}) == n
    ends = {label["text"]: label for label in layout["labels"]}
    numbers = [label for label in layout["labels"] if label["align"] == "center"]
    for label in numbers:
        assert label["x"] - ends["embedding"]["x"] > 60 or label["y"] != ends["embedding"]["y"]
        assert ends["head"]["x"] - label["x"] > 30 or label["y"] != ends["head"]["y"]
    for before, after in itertools.pairwise(numbers):
        assert after["y"] > before["y"] or after["x"] - before["x"] >= 24


@pytest.mark.parametrize("width", [40, 180, 420])
@pytest.mark.parametrize("n", [6, 34, 82, 128])
def test_a_strip_is_one_row_as_wide_as_its_place(call, n, width):
    layout = call("geometry.js", "layoutOf", n, width, 20)
    rects = layout["rects"]
    assert {r["y"] for r in rects} == {0}
    assert layout["labels"] == []
    assert layout["height"] == 20
    assert rects[0]["x"] == 0
    assert rects[-1]["x"] + rects[-1]["width"] == pytest.approx(width)
    assert all(r["width"] > 0.2 for r in rects)


amounts = st.integers(0, 2**40)


@settings(max_examples=100, deadline=None)
@given(all_bytes=amounts, gpu=amounts, resident=amounts, arriving=amounts)
def test_a_cell_is_never_fuller_than_full(call, all_bytes, gpu, resident, arriving):
    segment = {"bytes": all_bytes, "gpu": gpu, "resident": resident, "arriving": arriving}
    shares = call("geometry.js", "fillOf", segment)
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    if all_bytes >= gpu + resident + arriving > 0:
        assert shares == pytest.approx([gpu / all_bytes, resident / all_bytes, arriving / all_bytes])


PLANNED = [
    {"name": "embedding", "bytes": 40, "gpu_bytes": 0, "resident_bytes": 0, "streamed_bytes": 0},
    {"name": "blk.0", "bytes": 100, "gpu_bytes": 100, "resident_bytes": 0, "streamed_bytes": 0},
    {"name": "blk.1", "bytes": 100, "gpu_bytes": 0, "resident_bytes": 30, "streamed_bytes": 70},
    {"name": "head", "bytes": 60, "gpu_bytes": 0, "resident_bytes": 60, "streamed_bytes": 0},
]
PLAN = {
    "device_bytes": 100,
    "resident_bytes": 90,
    "streamed_bytes": 70,
    "total_bytes": 200,
    "staging_bytes": 20,
    "kv_bytes": 50,
    "expert_cache_bytes": 0,
    "state_bytes": 0,
    "activation_bytes": 40,
    "budget": 256,
    "context": 512,
    "gpu": None,
}


def test_totals_know_what_stays_and_what_only_passes_through(call):
    """Bytes of a streamed layer that are here for a moment are here, but nothing of what stays."""
    here = [{"gpu": 100}, {"resident": 95, "arriving": 5}, {"resident": 20}]
    live = [{"name": p["name"], "bytes": p["bytes"], **now} for p, now in zip(PLANNED, [{}, *here], strict=True)]
    totals = call("geometry.js", "totalsOf", live, PLANNED)
    expected = {
        "bytes": 300,
        "gpu": 100,
        "resident": 115,
        "arriving": 5,
        "here": 215,
        "stay": 190,
        "placed": 150,
        "n_placed": 3,
    }
    assert totals == expected


def test_parts_of_a_plan_add_up(call):
    """What is in no place is read row by row: an embedding that does not stay."""
    parts = {
        part["kind"]: part["n"] for part in call("geometry.js", "weightsOf", {"plan": PLAN, "size": 310, "segments": PLANNED})
    }
    assert parts == {"gpu": 100, "resident": 90, "stream": 70, "rows": 40}
    memory = {part["kind"]: part["n"] for part in call("geometry.js", "memoryOf", PLAN)}
    assert memory == {"resident": 90, "kv": 50, "staging": 20, "work": 40}


# plan-text.js


def examined(**changes):
    return {"runs": True, "why_not": None, "kind": None, "needs_bytes": None, "plan": PLAN, "size": 310, **changes}


def test_verdicts(call):
    def verdict(found, **options):
        return call("plan-text.js", "verdictOf", found, options)

    fits = verdict(examined(plan={**PLAN, "streamed_bytes": 0, "device_bytes": 0}))
    assert (fits["tone"], fits["moves"]) == ("yes", [])
    assert "memory" in fits["text"]
    assert verdict(examined(), memory="")["tone"] == "stream"
    assert verdict(examined(), memory="")["moves"] == []  # the machine has no more
    assert verdict(examined(), memory="256MiB")["moves"][0]["memory"] == "1MiB"
    small = verdict(examined(runs=False, plan=None, kind="BudgetError", why_not="too small", needs_bytes=600 * MIB))
    assert (small["tone"], small["text"]) == ("no", "Too small.")
    assert small["moves"] == [{"label": "Use 600 MiB of memory", "memory": "600MiB"}]
    assert "not supported" in verdict(examined(runs=False, plan=None, kind="UnsupportedError", why_not="x"))["title"]


def test_limits(call):
    read = {"limit": "reading", "read_bytes": 300 * MIB, "read_bytes_per_second": 9 * MIB, "read_from": "network"}
    said = "Limited by reading: each token reads 300 MiB from the network at 9.00 MiB/s."
    assert call("plan-text.js", "limitOf", read, False) == said
    assert call("plan-text.js", "limitOf", read, True) == f"{said} Faster once it is kept on this device."
    assert "nothing is read" in call("plan-text.js", "limitOf", {"limit": "computing", "read_bytes": 0})


def test_downloads(call):
    def said(download, keep=True):
        return call("plan-text.js", "downloadOf", {"download": download, "size": 1000 * MIB}, keep)

    some = {"bytes": 400 * MIB, "cached_bytes": 600 * MIB, "rate": 10 * MIB, "seconds": None, "quota": 2 * GIB, "usage": GIB}
    assert said(some)["title"] == "400 MiB to fetch, about 40 s"
    assert said({**some, "seconds": 0.4})["title"] == "400 MiB to fetch, in a moment"
    assert (said(some)["tone"], said(some)["here"]) == ("plain", pytest.approx(0.6))
    assert "1.00 GiB are free" in " ".join(said(some)["lines"])
    full = said({**some, "quota": GIB})
    assert full["tone"] == "warn"
    assert "Only 0 B" in " ".join(full["lines"])
    assert said({**some, "quota": GIB}, keep=False)["tone"] == "plain"
    assert said({**some, "bytes": 0})["tone"] == "good"
    assert "from the file" in said({**some, "bytes": 0, "cached_bytes": 0})["lines"][0]
    assert said(None) is None


# The map


def test_cells_in_words(call):
    def details(i, live=False, **now):
        segment = {"name": PLANNED[i]["name"], "bytes": PLANNED[i]["bytes"], **now} if live else PLANNED[i]
        return call("plan-text.js", "detailsOf", segment, PLANNED[i], live)

    assert details(0) == "Embedding, 40 B: read row by row, as tokens need them"
    assert details(1) == "Layer 1, 100 B: 100 B for the GPU"
    assert details(2) == "Layer 2, 100 B: 30 B for memory and 70 B read for each token"
    assert (
        call("plan-text.js", "detailsOf", {"name": "embedding", "bytes": 0}, PLANNED[0], True)
        == "Embedding: its weights are the head's"
    )
    assert details(1, live=True) == "Layer 1, 100 B: not here yet"
    now = details(2, live=True, resident=40, arriving=10, in_use=True)
    assert now == "Layer 2, 100 B: 40 B in memory, 10 B arriving and 70 B read for each token; in use"
    assert (
        call("plan-text.js", "detailsOf", {"name": "head", "bytes": 60, "gpu": 60}, None, True) == "Head, 60 B: 60 B on the GPU"
    )


def test_an_embedding_that_is_the_head_is_drawn_as_full_as_that(call):
    segments = [{"name": "embedding", "bytes": 0, "in_use": True}, {"name": "head", "bytes": 60, "gpu": 60, "in_use": False}]
    assert call("geometry.js", "drawable", segments)[0] == {"name": "embedding", "bytes": 60, "gpu": 60, "in_use": True}


def test_arrows_lead_from_cell_to_cell(call):
    def lead(key, at):
        return call("geometry.js", "moved", key, at, 10, 4)

    assert [lead("ArrowRight", at) for at in (None, 0, 9)] == [0, 1, 9]
    assert [lead("ArrowLeft", at) for at in (5, 0)] == [4, 0]
    assert [lead("ArrowDown", at) for at in (1, 8)] == [5, 8]
    assert [lead("ArrowUp", at) for at in (5, 2)] == [1, 2]
    assert [lead(key, 5) for key in ("Home", "End", "Escape")] == [0, 9, None]


def test_flows_are_smoothed_and_end(call):
    """100 MiB/s from the network for 8 s, then nothing; a model that is opened anew begins at nothing."""

    def at(n_bytes):
        return {"tiers": {"network": {"bytes": n_bytes}, "gpu": {"used": 0, "of": 0}}, "read_bytes": n_bytes}

    seen = call("geometry.js", "follow", None, at(0), 0)
    for i in range(1, 65):
        seen = call("geometry.js", "follow", seen, at(i * 12.5 * MIB), i / 8)
    assert seen["rates"]["network"] == pytest.approx(100 * MIB, rel=0.01)
    assert seen["rates"]["gpu"] == 0
    assert call("geometry.js", "follow", seen, at(0), 9)["rates"] == {"network": 0, "read": 0, "gpu": 0}
    for i in range(1, 200):
        seen = call("geometry.js", "follow", seen, at(800 * MIB), 8 + i / 8)
    assert seen["rates"]["network"] == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("it needs 7 MiB; raise --memory or lower --context", "it needs 7 MiB; raise the memory or lower the context."),
        ("X.gguf failed; try a smaller --gpu-memory, or --device cpu", "X.gguf failed; try a smaller GPU memory, or the CPU."),
        (
            "lower --context, or halve it with --kv-type f16",
            "Lower the context, or halve it with a cache of half the size (f16).",
        ),
        ("a file is not there!", "A file is not there!"),
    ],
)
def test_messages_name_what_the_page_has(call, text, wanted):
    """Not what a command line has."""
    assert call("errors.js", "sentence", text).lower() == wanted.lower()


# What addresses name


@pytest.mark.parametrize(
    ("path", "name"),
    [("/b.gguf", "b.gguf"), ("/b/%C3%A4.gguf", "ä.gguf"), ("/%z/50%.gguf", "50%.gguf"), ("/%E4.gguf", "%E4.gguf"), ("/", "")],
)
def test_an_address_names_a_file_whatever_is_in_it(call, path, name):
    """A link that is not well made would otherwise keep the page from starting."""
    assert call("given.js", "lastName", path) == name


def test_of_a_list_of_models_those_with_an_address_are_taken(call):
    given = [None, 7, "x", [], {}, {"url": 7}, {"url": "http://["}, {"url": "models/a.gguf", "size": 3}, {"url": "https://b/c.gguf"}]
    found = call("served.js", "withAddresses", given, "https://a.example/key/")
    assert found == [{"url": "https://a.example/key/models/a.gguf", "size": 3}, {"url": "https://b/c.gguf"}]
