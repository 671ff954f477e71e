"""The demo model's text generator and the finished file. Training itself is never part of the tests."""

import random
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools import demo_text
from tools.demo_text import chats, stories
from tools.demo_text.grammar import Grammar, finish, parse, probable, surprise, words

DEMO = Path(__file__).resolve().parents[1] / "wasmrt" / "data" / "demo.gguf"
seeds = st.integers(0, 2**32)


def passages(text: str) -> set[tuple[str, ...]]:
    row = words(text)
    return {tuple(row[at : at + stories.PASSAGE_WORDS]) for at in range(len(row) - stories.PASSAGE_WORDS + 1)}


def test_documents_depend_on_seed_and_number_alone():
    first = [demo_text.document(7, index) for index in range(20)]
    random.seed(0)  # the generator must not look at the global state
    assert [demo_text.document(7, index) for index in range(20)] == first
    assert demo_text.document(8, 3) != first[3]
    assert len(set(first)) == 20


def test_documents_are_stories_and_chats_with_their_special_tokens():
    made = [demo_text.document(1, index) for index in range(200)]
    talks = [text for text in made if demo_text.USER in text]
    assert 0.4 < len(talks) / len(made) < 0.6
    for text in made:
        assert text.startswith(demo_text.BOS)
        assert text.endswith(demo_text.END)
        assert "@" not in text
        assert "$" not in text
        assert "{" not in text
    for text in talks:
        assert text.count(demo_text.USER) == text.count(demo_text.ASSISTANT)


@settings(max_examples=30)
@given(seed=seeds)
def test_story_words_are_in_the_lexicon(seed):
    story = stories.story(random.Random(seed))
    assert set(words(story)) <= stories.lexicon()
    assert 80 < len(words(story)) < 330
    assert story[0].isupper() or story[0] == '"'
    assert story.endswith((".", '"', "!", "?"))
    assert "a~" not in story.lower()


def test_lexicon_is_a_few_thousand_plain_words():
    lexicon = stories.lexicon()
    assert 1500 < len(lexicon) < 5000
    assert {"fox", "foxes", "once", "lantern"} <= lexicon
    assert all(word.replace("'", "").isalpha() for word in lexicon)


def test_fresh_stories_share_no_passage_with_others():
    """500 x 200 stories; without the redrawing of probable passages some pairs share one."""
    read: set[tuple[str, ...]] = set()
    for seed in range(500):
        read |= passages(stories.story(random.Random(seed)))
    for seed in range(200):
        assert not read & passages(stories.story(random.Random(10**9 + seed)))


@settings(max_examples=30)
@given(seed=seeds)
def test_no_passage_of_a_story_is_probable(seed):
    told = stories.sentences(random.Random(seed))
    row = [word for pieces in told for word in surprise(pieces)]
    assert len(row) == len(words(stories.story(random.Random(seed))))
    assert not probable(row, stories.PASSAGE_WORDS, stories.PASSAGE_BITS)


def test_surprise_counts_a_bound_word_once():
    grammar = Grammar({"colour": ["red", "blue", "green", "black"]})
    rng = random.Random(0)
    bound = {"c": grammar.draw(rng, "colour")}
    assert bound["c"].bits == (2.0,)
    row = surprise(grammar.expand(rng, "a $c hat, a $c coat and a @colour {bag|cup}", bound))
    assert [free + value for free, _, value in row] == [0, 2, 0, 0, 2, 0, 0, 0, 2, 1]
    assert not probable(row, 10, 5.0)
    assert probable(row, 10, 5.1)
    assert probable(row, 4, 0.5) is False
    assert probable(row, 3, 2.1)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("a~ old hat and a~ red hat .", "An old hat and a red hat."),
        ("then a~ unicorn met a~ hour.", "Then a unicorn met a hour."),
        ('"come in,"  said Tim. he sat.', '"Come in," said Tim. He sat.'),
    ],
)
def test_finish_settles_articles_capitals_and_spaces(raw, wanted):
    assert finish(raw) == wanted


@pytest.mark.parametrize("template", ["{a|b", "a|b", "a}b"])
def test_templates_with_loose_braces_are_refused(template):
    with pytest.raises(ValueError, match="brace"):
        parse(template)


@settings(max_examples=30)
@given(seed=seeds)
def test_wished_stories_are_about_the_wish(seed):
    story = stories.story(random.Random(seed), {"kind": "otter", "N": "Pip"})
    assert "Pip" in story
    assert "otter" in story


def test_held_out_sums_never_occur_in_training_text():
    assert 15 < len(chats.HELD_OUT) < 35
    rng = random.Random(5)
    for _ in range(2000):
        question, answer = chats.arithmetic(rng)
        numbers = [int(word) for word in words(answer) if word.isdigit()]
        if " plus " in answer:
            assert numbers[2] == numbers[0] + numbers[1], question
            assert (min(numbers[:2]), max(numbers[:2])) not in chats.HELD_OUT
        elif " minus " in answer:
            assert numbers[2] == numbers[0] - numbers[1], question


@settings(max_examples=30)
@given(seed=seeds)
def test_render_is_what_the_chat_template_makes(seed):
    messages = chats.chat(random.Random(seed))
    template = ImmutableSandboxedEnvironment().from_string(demo_text.CHAT_TEMPLATE)
    finished = template.render(messages=messages, bos_token=demo_text.BOS, add_generation_prompt=False)
    assert finished == demo_text.render(messages)
    prompt = template.render(messages=messages, bos_token=demo_text.BOS, add_generation_prompt=True)
    assert prompt == finished + demo_text.ASSISTANT


@pytest.fixture(scope="module")
def demo():
    reader = gguf.GGUFReader(DEMO)
    return {name: field.contents() for name, field in reader.fields.items()}, reader.tensors


def test_demo_file_is_small_and_says_what_it_is(demo):
    fields, tensors = demo
    assert DEMO.stat().st_size <= 8_000_000
    assert fields["general.architecture"] == "llama"
    assert fields["general.name"] == "wasmrt demo"
    assert fields["general.license"] == "MIT"
    assert fields["general.author"] == fields["general.organization"] == "The wasmrt developers"
    assert "train_demo_model" in fields["general.description"]
    assert {tensor.tensor_type.name for tensor in tensors} == {"Q8_0", "F32"}
    assert all(tensor.tensor_type.name == "Q8_0" for tensor in tensors if len(tensor.shape) == 2)


def test_demo_model_was_not_learned_by_heart(demo):
    fields, _ = demo
    assert 0 < fields["wasmrt.demo.heldout_loss"] < 1.1 * fields["wasmrt.demo.train_loss"]


def test_demo_vocabulary_fits_its_text(demo):
    fields, tensors = demo
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(tokens) == len(types) == fields["llama.vocab_size"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    assert control == demo_text.SPECIAL_TOKENS
    assert tokens[fields["tokenizer.ggml.bos_token_id"]] == demo_text.BOS
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == demo_text.END
    assert fields["tokenizer.chat_template"] == demo_text.CHAT_TEMPLATE
    assert [list(tensor.shape) for tensor in tensors if tensor.name == "token_embd.weight"] == [[256, len(tokens)]]
