# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/*.md as tests see them: fences, prose, links, named files."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NEEDS_GPU = "<!-- needs a GPU -->"
FENCE = re.compile(rf"^({re.escape(NEEDS_GPU)}\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(r"^<!-- [^>]+ -->\n.*?^<!-- end -->$", re.M | re.S)  # written by docs/make.py
FOLDERS = "docs|csrc|fusedsched|benchmarks|tests|triton_kernels"


class Fence(NamedTuple):
    language: str
    text: str
    needs_gpu: bool


def pages():
    """README.md and the pages of docs/, as paths relative to the source tree."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))] if DOCS.exists() else []


def read(page):
    path = ROOT / page
    return path.read_text() if path.exists() else ""


def written(text):
    """A page without what scripts write into it."""
    return PLACE.sub("", text)


def fences(text):
    return [Fence(language, body, bool(gpu)) for gpu, language, body in FENCE.findall(text)]


def prose(text):
    """Sentences alone: no fences, no code, no comments, no targets of links."""
    text = re.sub(r"^```.*?^```$", "", written(text), flags=re.M | re.S)
    text = re.sub(r"^    .*$|`[^`]*`|<!--.*?-->", "", text, flags=re.M | re.S)
    return re.sub(r"\]\([^)]*\)", "]", text)


def links(text):
    """Targets of links and pictures, without those on the web."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(text):
    """The names of a page's headings in links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def files(text):
    """Files and folders of the source tree that the sentences name."""
    return {name.rstrip("/") for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", written(text))}
