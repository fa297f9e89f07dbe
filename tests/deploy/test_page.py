"""The page that draws a plan: whole without a network, and never broken by a name."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from potluck.deploy.answer import answer_of
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.page import page
from potluck.deploy.tables import seconds_text
from potluck.deploy.token_time import seconds_by, token_spans
from potluck.models.shipped import shipped_spec
from potluck.planner.goal import Goal
from potluck.planner.solve import solve

EMPTY = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</style><script>alert(1)</script>\"'&<b>"


class Outline(HTMLParser):
    """What a page consists of; refuses elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(text):
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def answer():
    """Of a model that takes more than the memory of all."""
    spec, fleet = shipped_spec("Qwen/Qwen2.5-14B-Instruct"), read_fleet("home")
    goal = Goal(dtype="bfloat16", excluded=frozenset({"old-laptop"}), model="Qwen/Qwen2.5-14B-Instruct")
    return answer_of(solve(fleet, spec, goal), fleet, spec, goal, "a test")


def test_it_stands_alone(answer):
    text = page(answer)
    parsed = outline(text)
    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|@import|src=|href=", text), "nothing is fetched"
    assert all(url == "#tip" for url in re.findall(r"url\((.*?)\)", text))
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text


def test_it_draws_every_node_hop_and_stage(answer):
    parsed = outline(page(answer))
    headings = "".join(parsed.text)
    assert all(node.name in headings and node.device.name in headings for node in answer.fleet.nodes)
    assert "left out: excluded" in headings
    assert [tag for tag, _ in parsed.elements].count("circle") == len(answer.fleet.nodes)
    paths = [attributes for tag, attributes in parsed.elements if tag == "path" and "marker-end" in attributes]
    hops = {(span.node, span.to) for span in token_spans(answer) if span.work == "transfer"}
    assert len(paths) == len(hops) >= len(answer.plan.nodes)
    assert [tag for tag, _ in parsed.elements].count("tr") == 1 + len(answer.stages)
    kinds = {attributes["class"] for tag, attributes in parsed.elements if tag == "i" and "style" in attributes}
    assert kinds == {"weights", "window", "kv", "worker", *seconds_by(answer)}


def test_bars_stay_within_their_frames(answer):
    styles = [
        attributes["style"]
        for tag, attributes in outline(page(answer)).elements
        if tag == "i" and "style" in attributes
    ]
    places = [re.fullmatch(r"left: ([0-9.]+)%; width: ([0-9.]+)%", style) for style in styles]
    assert len(places) > 20 and all(places)
    assert all(float(place[1]) + float(place[2]) <= 100.01 for place in places)


def test_names_are_escaped(answer):
    nodes = tuple(
        replace(node, devices=tuple(replace(device, name=HOSTILE) for device in node.devices))
        for node in answer.fleet.nodes
    )
    hostile = replace(
        answer,
        fleet=replace(answer.fleet, nodes=nodes, name=HOSTILE),
        plan=replace(answer.plan, model=HOSTILE, reasons=dict.fromkeys(answer.plan.reasons, HOSTILE)),
        origin=HOSTILE,
    )
    parsed = outline(page(hostile))
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "".join(parsed.text).count(HOSTILE) >= 2 + 2 * len(nodes)


def test_one_machine_alone_has_no_hops():
    spec, fleet = shipped_spec("Qwen/Qwen3-0.6B"), read_fleet("m4-16gb")
    goal = Goal(dtype="bfloat16")
    parsed = outline(page(answer_of(solve(fleet, spec, goal), fleet, spec, goal)))
    assert not any("marker-end" in attributes for _, attributes in parsed.elements)


@pytest.fixture(scope="module")
def replicas():
    """Three routes side by side: one over two nodes, two of a node each."""
    spec, fleet = shipped_spec("Qwen/Qwen3-0.6B"), read_fleet("trio")
    nodes = tuple(replace(node, devices=(replace(node.device, memory=8 << 30),)) for node in fleet.nodes)
    home = replace(fleet, nodes=nodes)
    goal = Goal(dtype="bfloat16", aim="throughput", solver="exact", kv_tokens=2048, batch=8)
    return answer_of(solve(home, spec, goal), home, spec, goal)


def test_all_routes_are_drawn(replicas):
    assert len(replicas.plan.routes) == 3
    assert replicas.routes[0].prediction.time_per_token == pytest.approx(replicas.prediction.time_per_token)
    parsed = outline(page(replicas))
    text = "".join(parsed.text)
    arrows = [attributes for tag, attributes in parsed.elements if tag == "path" and "marker-end" in attributes]
    hops = [
        {(span.node, span.to) for span in token_spans(route) if span.work == "transfer"} for route in replicas.routes
    ]
    assert len(arrows) == sum(map(len, hops)) and sum(map(bool, hops)) >= 2
    for number, (route, own) in enumerate(zip(replicas.routes, hops, strict=True), 1):
        assert f"route {number}: {seconds_text(route.prediction.time_per_token)}" in text
        assert all(f"route {number}: {source} to {target}: " in text for source, target in own)
    assert [tag for tag, _ in parsed.elements].count("tr") == 1 + sum(len(one.stages) for one in replicas.routes)
    lanes = [attributes for tag, attributes in parsed.elements if attributes.get("class") == "lane"]
    assert len(lanes) == len(replicas.plan.nodes) + sum(map(bool, hops))


def test_time_lines_of_routes_have_one_scale(replicas):
    """The slowest route's fills its frame; the others end where theirs does."""
    slowest = max(route.prediction.time_per_token for route in replicas.routes)
    works = {work for route in replicas.routes for work in seconds_by(route)}
    bars = [
        [float(number) for number in re.findall(r"([0-9.]+)%", attributes["style"])]
        for tag, attributes in outline(page(replicas)).elements
        if tag == "i" and "style" in attributes and attributes["class"] in works
    ]
    ends = sorted({round(start + width, 1) for start, width in bars})
    expected = [100 * route.prediction.time_per_token / slowest for route in replicas.routes]
    assert ends[-1] == pytest.approx(100.0, abs=0.1)
    assert all(any(abs(end - one) < 0.2 for end in ends) for one in expected)


def test_one_route_has_no_number(answer):
    assert "route 1" not in page(answer)
