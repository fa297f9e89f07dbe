"""Templates that never end, eat memory or try to get out; none of them may take the parent with it."""

import os
import signal
import threading
import time

import pytest

from potluck.models.template_renderer import RenderLimits, TemplateError, TemplateRenderer

LIMITS = RenderLimits(seconds=0.3, patience=20.0, characters=10_000)
GOOD = "good {{ x }}"


@pytest.fixture
def render():
    """render(source) in a process that also knows a good template, and still can after."""
    made = []

    def run(source, **variables):
        made.append(TemplateRenderer({"bad": source, "good": GOOD}, {}, LIMITS))
        try:
            return made[-1].render("bad", variables)
        finally:
            assert made[-1].render("good", {"x": 1}) == "good 1"

    yield run
    for renderer in made:
        renderer.close()


HOSTILE = {
    "loops without output": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "repetition": "{{ 'x' * 10**9 }}",
    "repetition that grows": "{% set n = 10**9 %}{% set s = messages * n %}{{ s | length }}",
    "range": "{{ range(10**12) | list }}",
    "centering": "{{ 'x' | center(10**9) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "long output": "{% for i in range(20000) %}x{% endfor %}",
    "doubling": "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "sorting": "{% for i in range(99999) %}{% set x = range(99999) | list | sort %}{% endfor %}",
    "nested list": "{% set n = namespace(s=[]) %}{% for i in range(9999) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
    "including": "{% include 'other' %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(render, name):
    with pytest.raises(TemplateError) as caught:
        render(HOSTILE[name], messages=["x"])
    assert "\n" not in str(caught.value)


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "init": "{{ cycler.__init__.__globals__.os }}",
    "format": "{{ '{0.__class__}'.format('') }}",
    "append": "{{ x.append(1) }}",
    "import": "{{ self.__init__.__globals__.__builtins__.__import__('os') }}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_the_sandbox_holds(render, name):
    """What is out of reach is undefined, and prints as nothing, or is refused."""
    try:
        assert render(ESCAPES[name], x=[1]) == ""
    except TemplateError:
        assert name in ("class", "init", "append", "import")


def test_the_environment_is_what_templates_expect(render):
    assert render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "1"
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"
    assert render("{{ x | tojson }}", x={"b": "<é>", "a": None}) == '{"b": "<é>", "a": null}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10


@pytest.fixture
def renderer():
    made = TemplateRenderer({"good": GOOD, "endless": HOSTILE["loops without output"]}, {}, LIMITS)
    yield made
    made.close()


def test_the_process_starts_late_stays_and_ends(renderer):
    assert renderer.pid is None
    renderer.render("good", {})
    pid = renderer.pid
    renderer.render("good", {})
    assert renderer.pid == pid
    renderer.close()
    assert renderer.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_process_is_replaced(renderer):
    renderer.render("good", {})
    os.kill(renderer.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while renderer.pid is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert renderer.render("good", {"x": 2}) == "good 2"


def test_a_stopped_process_is_killed():
    """Frozen, it uses no processor time; only the parent's patience ends it."""
    renderer = TemplateRenderer({"good": GOOD}, {}, RenderLimits(patience=0.3))
    renderer.render("good", {})
    os.kill(renderer.pid, signal.SIGSTOP)
    with pytest.raises(TemplateError, match="stopped"):
        renderer.render("good", {})
    assert renderer.render("good", {"x": 3}) == "good 3"
    renderer.close()


def test_many_threads_share_it(renderer):
    found = []

    def ask(number):
        if number % 5 == 0:
            with pytest.raises(TemplateError):
                renderer.render("endless", {})
        found.append(renderer.render("good", {"x": number}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"good {number}" for number in range(10))


def test_variables_that_are_no_json(renderer):
    with pytest.raises(TemplateError, match="not JSON"):
        renderer.render("good", {"x": object()})


def test_unused_renderers_leave_no_process():
    renderer = TemplateRenderer({"good": GOOD}, {}, LIMITS)
    renderer.render("good", {})
    pid = renderer.pid
    del renderer
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
