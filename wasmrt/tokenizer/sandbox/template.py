"""compile_template and render_template: what chat.py calls. Whatever goes wrong in a template is one line in a FormatError.

Relies on environment.py for everything that happens in between.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateSyntaxError

from wasmrt.errors import FormatError
from wasmrt.tokenizer.sandbox.environment import Sandbox
from wasmrt.tokenizer.sandbox.limits import MAX_SOURCE, CapExceeded, Limits, Refused

_LONG_NUMBER = re.compile(r"(?<![\da-fA-F_])[\da-fA-F_]{1000}")    # Jinja's lexer takes 300 bytes of stack for a digit


def compile_template(source: str) -> CodeType:
    """The template's Python code, checked against the caps. Raises FormatError, one line, for anything wrong with it."""
    if len(source) > MAX_SOURCE:
        raise FormatError(f"the chat template has {len(source):,} characters; at most {MAX_SOURCE:,} are accepted")
    if _LONG_NUMBER.search(source):
        raise FormatError("the chat template holds a number of 1,000 digits or more; the file may be hostile")
    problem = ""
    try:
        code = Sandbox(Limits.for_input(0, 0)).compile_checked(source)
    except TemplateSyntaxError as e:
        problem = f", line {e.lineno}: {e.message}"
    except RecursionError:
        problem = ": it is nested too deeply"
    except Exception as e:                              # whatever Jinja or Python make of hostile text is the template's fault
        problem = f": {e or type(e).__name__}"
    if problem:                                         # raised out here: the exception above would keep its frames alive
        raise FormatError(f"the chat template cannot be compiled{_one_line(problem)}")
    return code


def render_template(code: CodeType, variables: Mapping[str, Any], limits: Limits, now: Callable[[], datetime]) -> str:
    """The text that the compiled template makes of the variables: str, int, float, bool, None, lists and dicts of these.

    Raises FormatError, one line, when the template fails or exceeds the limits, and with its own message when it refuses
    the messages (`raise_exception`).
    """
    problem = ""
    env = Sandbox(limits, now)
    template = Template.from_code(env, code, env.globals)
    pieces = []
    n_left = limits.n_output
    try:
        env.meter.learn(variables)
        for piece in template.root_render_func(template.new_context(dict(variables))):
            env.meter.spend(0, 8)
            n_left -= len(piece)
            if n_left < 0:
                raise CapExceeded(f"it writes more than {limits.n_output:,} characters")
            pieces.append(piece)
    except Refused as e:
        problem = f"the chat template refuses these messages: {e}"
    except Exception as e:                              # a template's runtime errors have no common base
        problem = f"the chat template fails{_line_of(e, template)}: {_reason(e)}"
    if problem:
        raise FormatError(_one_line(problem))
    return "".join(pieces)


def _one_line(text: str, limit: int = 400) -> str:
    """`text` with its line breaks made spaces, cut to `limit` characters."""
    text = re.sub(r"\s+", " ", text[: 4 * limit]).rstrip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return str(error) or type(error).__name__


def _line_of(error: Exception, template: Template) -> str:
    """Where in the template the error was raised, as ", line N", or nothing if that is unknown."""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(frame.tb_lineno)
        frame = frame.tb_next
    return f", line {line}" if line else ""
