"""Chat templates of files, rendered in Jinja2's immutable sandbox, with caps on what they may cost.

The sandbox alone keeps a template from Python's insides, not from using up time and memory. Here nothing has to be killed:
- The source, its tokens, the depth of its syntax tree and the Python that Jinja makes of it are bounded. Nothing is folded
  while compiling, so `{{ 'a' * 10**9 }}` costs nothing before it runs.
- The syntax tree is rewritten: every loop body, loop filter and macro first pays for its own size in steps (`#step`), so no
  template runs long without paying, however it calls itself. Operators, filters, methods and output pay for their results
  before these are made.
- Bytes are counted when made and never given back, so the count bounds what is alive at any time. Containers are weighed
  as trees, shared parts each time they occur: that bounds what `str`, `==`, `hash` and JSON do with them.
- Attributes are an allow-list by type: those in methods.py, and nothing else of any object.
A deadline, looked at as steps are paid, is the second line of defence.

Each file relies on those above it:
    limits.py       the caps, and what is raised at them
    rewrite.py      the source's tokens and syntax tree: what is refused, where the payments go
    meter.py        what is left of one rendering's limits; the weight of values
    text.py         values as text: {{ value }}, `%`, str.format
    methods.py      the attributes that templates may use; what methods cost
    filters.py      every filter and test
    environment.py  Sandbox: Jinja's environment, made of the above
    template.py     compile_template and render_template: start reading here
"""

from wasmrt.tokenizer.sandbox.limits import MAX_NESTING, Limits
from wasmrt.tokenizer.sandbox.template import compile_template, render_template

__all__ = ["MAX_NESTING", "Limits", "compile_template", "render_template"]
