"""Chat templates: published ones give the recorded text, what Jinja gives, and messages stay text."""

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wasmrt.errors import FormatError
from wasmrt.tokenizer.chat import MARKERS, ChatTemplate, ControlGuard, from_metadata

CONTROLS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|a|>", "<|ab|>", "aab", "[INST]"]
USER = [{"role": "user", "content": "Hi"}]


def template(source, **options):
    return ChatTemplate(source, **{"bos_token": "<s>", "eos_token": "</s>", "control_texts": CONTROLS, **options})


def render(source, messages=USER, **variables):
    return template(source).render(messages, **variables).plain


# -- published templates


@pytest.mark.reference
def test_published_templates_give_the_recorded_text(reference_dir):
    cases = json.loads((reference_dir / "templates/cases.json").read_text("utf-8"))
    done = 0
    for case in cases:
        data = {"add_generation_prompt": None, "bos_token": "", "eos_token": "", **case["data"]}
        made = template(case["chat_template"], bos_token=data.pop("bos_token"), eos_token=data.pop("eos_token"))
        before = json.dumps(data)
        assert made.render(**data).plain == case["target"], case["name"]
        assert json.dumps(data) == before
        done += case["agrees_with_jinja2"]
    assert done == 50


@pytest.mark.reference
def test_templates_of_other_runtimes_give_the_recorded_text(reference_dir):
    recorded = json.loads((reference_dir / "templates/llama-cases.json").read_text("utf-8"))
    cases = [case for case in recorded["cases"] if case["agrees_with_jinja2"]]
    assert len(cases) == 26
    for case in cases:
        made = template(case["template"], bos_token=case["bos_token"], eos_token=case["eos_token"])
        text = made.render(recorded["conversation"], add_generation_prompt=recorded["add_generation_prompt"]).plain
        assert text == case["expected_jinja"], case["name"]


@pytest.mark.reference
def test_messages_never_become_control_tokens_in_published_templates(reference_dir):
    """Every <...> and [...] word of a template is taken for a control token, and every message is full of them."""
    for case in json.loads((reference_dir / "templates/cases.json").read_text("utf-8")):
        source = case["chat_template"]
        controls = sorted(set(re.findall(r"<\|?[a-zA-Z_/]+\|?>|\[/?[A-Z_]+\]", source)))
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
        attack = [{"role": "user", "content": "".join(controls)}, {"role": "assistant", "content": "x" + " ".join(controls)}]
        made = ChatTemplate(source, bos_token="<s>", eos_token="</s>", control_texts=controls, tell=str)
        try:
            honest = made.render(messages)
        except FormatError:
            continue                                    # it wants tools, or other roles
        text = made.render(attack).text
        for control in controls:
            assert text.count(control) == honest.text.count(control), case["name"]


# -- Jinja's own results, for what published templates use

EXPRESSIONS = """
'a' ~ 1 ~ none ~ true ~ 1.5 | [1, 'a', {'b': none}] | {'a': [1, (2,)]} | 'abc'[1:] | [1, 2, 3][::-1] | 'abc'[-1] | (1, 2)[0]
'%s-%05.1f-%d%%' % ('a', 2.25, 3) | '%(x)s' % {'x': 1} | '{} {0}'.format(1) if false else '{:>4}|{!r}'.format(1, 'b')
'a,b,,c'.split(',') | ' a b '.split() | 'a-b-c'.rsplit('-', 1) | 'a\\nb\\n'.splitlines() | 'ab'.center(6, '*')
'xaxx'.strip('x') | 'abc'.replace('b', 'xy', 1) | 'a\\tb'.expandtabs(4) | '-'.join(['a', 'b']) | 'aXb'.swapcase()
'Hello World'.title() | 'ab'.zfill(4) | 'hello wORLD'|title | 'a b'|wordcount | ['b', 'A', 'c']|sort
[3, 1, 2]|sort(reverse=true) | [1, 1, 2]|unique|list | 'abc'|list
[{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}]|map(attribute='b')|join(', ') | [{'a': 1}, {}]|selectattr('a', 'defined')|list
[{'a': 1}, {'a': 2}]|rejectattr('a', 'equalto', 2)|list | [1, 2, 3]|select('odd')|list | [0, 1]|reject|list
['a']|map('upper')|list | [{'a': 2, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 3}]|groupby('a') | [[1], [2]]|sum(start=[])
[{'a': 1}]|sum(attribute='a') | range(5)|batch(2, 'x')|list | range(7)|slice(3, 'x')|list | range(2)|slice(4)|list
'a\\nb\\n\\nc'|indent(2) | 'a\\nb'|indent('>', true) | 'long text here'|truncate(8) | '12.7'|int | 'x'|int(5)
'ff'|int(0, 16) | '1.5'|float | 2.567|round(1) | 2.1|round(0, 'ceil') | {'b': 1, 'a': 2}|dictsort | {'b': 1}|items|list
{'b': 1}.items() | {'b': 1}.get('c', 4) | {'a': 1}.keys()|list | 'a' in {'a': 1} | none|default('d') | nothing|default('d')
''|d('e', true) | [1, 2]|first | [1, 2]|last | []|first | 'abc'|reverse | [1, 2]|reverse|list | 'a<b'|string|upper
'aXa'|lower|replace('a', 'b') | 'abc'|length | [1, 2]|count | -3|abs | 'x y'|urlencode | 1048576|filesizeformat | 2 ** 10
7 // 2 | -7 % 3 | 7 / 2 | 1 < 2 < 3 | 1 == 1.0 | not 1 | 'a' < 'b' and 2 | 1 if nothing | 'b' if nothing else 'c'
[1] + [2] | (1, 2) + (3,) | 'ab' * 3 | [0] * 2 | 1 is number | 'a' is string | {} is mapping | [] is iterable
nothing is defined | none is none | 3 is divisibleby(3) | 'a' is in(['a']) | 4 is even | true is boolean | 1 is sameas(1)
[1] is sequence | (1 is callable) | 'a' is lower | [3, 1]|max | ['b', 'a']|min | dict(a=1, **{'b': 2})
'a\\\\'|tojson is string | namespace(a=1).a | 'aé'|capitalize | ['x'].index('x') | messages|map(attribute='role')|list
messages[0].content | messages[0]['role'] | messages[0].nothing is defined | messages[5] is defined
messages[0].get('content')|trim | loop is defined | 'ab'|map('upper')|join('-') | [1, [2]]|string | [none, nothing]|string
"""
TEMPLATES = [
    "{% for i in [1, 2, 3] %}"
    "{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{{ loop.previtem }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in range(9) if i is odd %}{% if i == 7 %}{% break %}{% endif %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}"
    "{{ loop.revindex }}{% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}",
    "{% for i in [1, [2, [3]]] recursive %}{% if i is number %}{{ i }}@{{ loop.depth }}{% else %}"
    "({{ loop(i) }}){% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}"
    "{{ ns.n }}{{ ns['n'] }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}-{{ varargs }}-{{ kwargs }}{% endmacro %}"
    "{{ f(1) }}{{ f(1, 3, 4, c=5) }}{{ f.name }}{{ f.arguments }}",
    "{% macro f() %}[{{ caller(1) }}]{% endmacro %}{% call(x) f() %}{{ x + 1 }}{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(20) }}",
    "{% set x %}  a{{ 1 }}  {% endset %}{{ x|trim }}{% set y | upper %}abc{% endset %}"
    "{{ y }}{% filter upper %}d{{ x }}{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{% set a, b = 1, 2 %}{{ b }}{% for k, v in {'x': 1}.items() %}{{ k }}={{ v }}{% endfor %}",
    "  {% if true %}\n  a\n  {% elif false %}\n  b\n  {% else %}\n  c\n  {% endif %}"
    "\n  {#- gone -#}\n d {%- raw %} {{ x }} {% endraw %}\n",
    "{% for g, l in [{'k': 'b', 'v': 1}, {'k': 'a', 'v': 2}]|groupby('k') %}{{ g }}{{ l|length }}{% endfor %}",
    "{% for a in 'abc' %}{{ loop.changed(a) }}{{ loop.nextitem }}{% endfor %}",
    "{% if messages|selectattr('role', 'equalto', 'tool') %}true though empty{% endif %}",
]


SOURCES = [f"{{{{ {expression} }}}}" for expression in re.split(r" \| |\n", EXPRESSIONS) if expression] + TEMPLATES


@pytest.mark.parametrize("source", SOURCES)
def test_values_are_those_of_plain_jinja(source):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    messages = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes?"}]
    assert render(source, messages) == plain.from_string(source).render(messages=messages)


def test_tojson_is_that_of_published_templates():
    value = {"b": "é<'\u2028", "a": [1, None, True, 1.5, {}]}
    cases = {
        "": {}, "indent=2": {"indent": 2}, "sort_keys=true": {"sort_keys": True},
        "separators=(',', ':')": {"separators": (",", ":")},
        "ensure_ascii=true": {"ensure_ascii": True},
    }  # fmt: skip
    for arguments, options in cases.items():
        expected = json.dumps(value, **{"ensure_ascii": False, **options})
        assert render("{{ documents[0]|tojson(" + arguments + ") }}", documents=[value]) == expected


def test_the_variables_of_the_interface():
    source = "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ thinking }}"
    assert render(source, thinking=3) == "<s></s>TrueTrueTrue3"
    assert render("{{ add_generation_prompt is defined }}", add_generation_prompt=None) == "False"
    tools, documents = [{"function": {"name": "f"}}], [{"text": "t"}]
    assert render("{{ tools[0].function.name }}{{ documents[0].text }}", tools=tools, documents=documents) == "ft"


def test_strftime_now_asks_the_given_clock():
    made = template("{{ strftime_now('%d %B %Y') }}", now=lambda: datetime(2024, 7, 26))
    assert made.render(USER).text == "26 July 2024"


def test_generation_marks_are_read_and_ignored():
    assert render("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}") == "Hi"


def test_raise_exception_shows_its_message():
    with pytest.raises(FormatError, match="refuses these messages: roles must alternate, not user"):
        render("{{ raise_exception('roles must\nalternate, not ' ~ messages[0].role) }}")


def test_an_error_names_the_line():
    with pytest.raises(FormatError, match=r"line 3: .*unexpected"):
        render("a\nb\n{{ 1 + }}\n".replace("1 +", "1 ]"))
    with pytest.raises(FormatError, match="line 3: 'nothing' is undefined"):
        render("a\nb\n{{ nothing.x }}\n")


def test_an_error_shows_no_marker_and_stays_short():
    messages = [{"role": "user", "content": "<|im_end|>" * 1000}]
    with pytest.raises(FormatError) as caught:
        render("{{ raise_exception(messages[0].content) }}", messages)
    assert "<|im_end|><|im_end|>" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_template_falls_back_to_chatml_with_a_warning():
    with pytest.warns(UserWarning, match="no chat template"):
        made = template(None)
    messages = [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": None}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    assert made.render(messages, add_generation_prompt=False).plain == expected
    assert made.render(messages).plain == expected + "<|im_start|>assistant\n"


def test_metadata_names_the_template():
    metadata = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    plain = {"tokenizer.chat_template": "plain"}
    for given_metadata, tools, expected in ((metadata, False, "plain"), (metadata, True, "tools"), (plain, True, "plain")):
        assert from_metadata(given_metadata, bos_token="", eos_token="", tools=tools).render(USER).text == expected
    with pytest.raises(FormatError, match="int, expected a string"):
        from_metadata({"tokenizer.chat_template": 5}, bos_token="", eos_token="")


def test_lists_of_text_parts_reach_templates_that_know_only_strings():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render("{{ messages[0]['content'] }}", messages) == "a\nb"
    assert render("{% for p in messages[0]['content'] %}{{ p['text'] }},{% endfor %}", messages) == "a,b,"


def test_strings_reach_templates_that_know_only_parts():
    source = "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %};{% endfor %}"
    assert render(source, [*USER, {"role": "assistant", "content": "Yes?"}]) == "Hi;Yes?;"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "non-empty"), ("Hi", "non-empty"), (None, "non-empty"), ({"role": "user"}, "non-empty"),
        ([*USER, "Hi"], r"messages\[1\]"), ([*USER, {"content": "x"}], r"messages\[1\]"), ([{"role": 1}], r"messages\[0\]"),
        ([{"role": "user", "content": 5}], r"messages\[0\]"), ([{"role": "user<|im_end|>"}], r"messages\[0\].*control token"),
        ([{"role": "us\ufdd3er"}], r"messages\[0\]"), ([{"role": "user", "content": [object()]}], "object cannot be passed"),
    ],
)  # fmt: skip
def test_wrong_messages_are_value_errors(messages, error):
    with pytest.raises(ValueError, match=error):
        render("x", messages)


def test_messages_nested_without_end_are_a_value_error():
    message = {"role": "user", "content": "x"}
    message["self"] = message
    with pytest.raises(ValueError, match="nested more than"):
        render("x", [message])


# -- messages stay text

near_controls = st.lists(st.sampled_from([*CONTROLS, *"<|>ab/s", "<|im_", "end|>", "im", " ", "é"]), max_size=6).map("".join)


@given(texts=st.lists(near_controls, min_size=1, max_size=4), around=st.lists(near_controls, min_size=5, max_size=5))
def test_protected_strings_form_no_control_text(texts, around):
    """A control text matches only where the template's own pieces, side by side and alone, form it."""
    guard, marker = ControlGuard(CONTROLS), MARKERS[0]
    parts = [guard.protect(text, marker) for text in texts]
    assert [part.replace(marker, "") for part in parts] == texts
    joined, ours = around[0], [True] * len(around[0])
    for text, part, after in zip(texts, parts, around[1:], strict=False):
        if any(text and text in control[1:-1] for control in CONTROLS):
            return                                      # a whole string inside a control text: the template's doing
        joined += part + after
        ours += [False] * len(part) + [True] * len(after)
    for control in CONTROLS:
        for match in re.finditer(f"(?={re.escape(control)})", joined):
            assert all(ours[match.start() : match.start() + len(control)])


@pytest.mark.parametrize("control", CONTROLS)
def test_no_control_text_is_formed_with_what_stands_beside_a_string(control):
    guard, marker = ControlGuard(CONTROLS), MARKERS[0]
    for cut in range(1, len(control)):
        head, tail = control[:cut], control[cut:]
        for text in (head, "x " + head, head + head):
            assert control not in guard.protect(text, marker) + tail
        for text in (tail, tail + " x", tail + tail):
            assert control not in head + guard.protect(text, marker)


@given(text=st.text("<|>imend_starx ", max_size=30))
def test_text_without_control_texts_is_left_alone(text):
    kept = ControlGuard(["<|im_end|>", "<|im_start|>"]).protect("x" + text.replace("|", "!") + "x", MARKERS[0])
    assert MARKERS[0] not in kept


def test_every_string_of_the_caller_is_protected():
    attack = "<|im_end|>"
    calls = [{"function": {"name": attack, "arguments": {attack: [attack]}}}]
    messages = [{"role": "user", "content": attack, "tool_calls": calls}]
    made = template(
        "{{ messages }}{{ tools|tojson }}{{ tools|tojson(ensure_ascii=true) }}{{ documents }}{{ extra }}<|im_end|>"
        "{{ '%s' % tools }}{{ '%s %s' % (1, tools) }}{{ '%(a)s' % {'a': tools} }}{{ '{} {!r}'.format(tools, extra) }}"
    )
    rendered = made.render(messages, tools=[{"x": attack}], documents=[{"y": attack + "\\ufdd0"}], extra=attack)
    assert rendered.text.count(attack) == 1
    assert rendered.plain.count(attack) == 14
    assert "\\\\ufdd0" in rendered.plain                # a backslash of the caller's own stays one
    assert rendered.plain.count("ufdd0") == 1


def test_the_marker_is_one_that_nobody_uses():
    rendered = template("\ufdd0{{ messages[0].content }}").render([{"role": "user", "content": "\ufdd1<s>"}])
    assert rendered.marker == "\ufdd2"
    assert rendered.text == "\ufdd0\ufdd1<\ufdd2s>"
    with pytest.raises(ValueError, match="noncharacters"):
        render("x", [{"role": "user", "content": "".join(MARKERS)}])


def test_many_control_texts_and_long_messages_take_no_time():
    guard = ControlGuard([f"<unused{i}>" for i in range(6000)] + ["x" * 100_000])
    text = "<unused" * 20_000 + "<" * 100_000 + "x" * 99_999
    assert guard.protect(text + "<unused17>", MARKERS[0]) == text + "<" + MARKERS[0] + "unused17>"


def test_long_conversations_are_not_hostile():
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 200} for i in range(2000)]
    source = (
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}"
        "{% for m in ns.all %}{{ m.role ~ ': ' ~ m['content']|trim + '\n' }}"
        "{% if loop.last and m.tool_calls is defined %}x{% endif %}{% endfor %}"
    )
    assert len(render(source, messages)) > 2_000_000
