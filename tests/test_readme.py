# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/: scripts run as printed, links and named files exist, and the words are those of the field."""

import contextlib
import doctest
import importlib
import re
import subprocess
import sys

import pytest
import torch
from pages import DOCS, FOLDERS, ROOT, anchors, fences, files, links, pages, prose, read, written

import fusedsched as fs
from fusedsched import cli

PAGES = pages()
PLAIN = [*PAGES, "CHANGELOG.md", "csrc/README.md", "benchmarks/README.md"]
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
TABLES = re.findall(r"<!-- benchmark table: python (.+?) -->\n(.*?)<!-- end -->", read("docs/benchmarks.md"), re.S)


def run(script, names=None, page="README.md"):
    names = {"__name__": "__main__"} if names is None else names
    exec(compile(script, page, "exec"), names)
    return names


def run_doctest(text, names, page):
    test = doctest.DocTestParser().get_doctest(text, names, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)
    names.update(test.globs)


def run_page(page, gpu):
    """All scripts of a page one after the other, as a reader would; `gpu`: those that need one too."""
    names = {"__name__": "__main__"}
    for fence in fences(read(page)):
        if fence.needs_gpu and not gpu:
            continue
        if fence.language == "python":
            run(fence.text, names, page)
        elif fence.language == "pycon":
            run_doctest(fence.text, names, page)
    return names


def with_scripts(gpu):
    found = [page for page in PAGES if page != "README.md"]
    return [p for p in found if any(f.language in ("python", "pycon") and f.needs_gpu >= gpu for f in fences(read(p)))]


# Scripts


@pytest.mark.parametrize("page", with_scripts(gpu=False))
def test_the_scripts_of_a_page_run_as_printed(page):
    run_page(page, gpu=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("page", with_scripts(gpu=True))
def test_scripts_that_need_a_gpu_run_as_printed(page):
    run_page(page, gpu=True)


class _NoGraph:
    def replay(self):
        pass


@pytest.mark.parametrize("page", with_scripts(gpu=True))
def test_scripts_that_need_a_gpu_run_on_the_host_without_a_graph(page, monkeypatch):
    """Finds wrong names and missing imports where there is no GPU; captures capture nothing here."""

    class Stream:
        def wait_stream(self, other):
            pass

    nothing = lambda *args: contextlib.nullcontext()  # noqa: E731
    for name, value in dict(CUDAGraph=_NoGraph, graph=nothing, stream=nothing, Stream=Stream).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    names = {"__name__": "__main__"}
    for fence in fences(read(page)):
        if fence.language == "python":
            on_host = fence.text.replace('"cuda"', '"cpu"').replace(", capturable=True", "")
            run(on_host, names, page)


@pytest.mark.parametrize("script", [f.text for f in fences(read("README.md")) if f.language == "python"])
def test_a_script_of_the_readme_runs_alone(script):
    run(script)


def side(diff, sign):
    """The script before ("-") or after ("+") a diff."""
    return "\n".join(line[1:] for line in diff.splitlines() if line[:1] in ("", " ", sign))


def test_the_swap_changes_neither_loss_nor_learning_rate():
    (diff,) = [fence.text for fence in fences(read("README.md")) if fence.language == "diff"]
    theirs, ours = run(side(diff, "-")), run(side(diff, "+"))
    assert "fusedsched" not in side(diff, "-") and type(ours["opt"]).__module__.startswith("fusedsched")
    assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-4)
    assert ours["sched"].get_last_lr() == pytest.approx(theirs["sched"].get_last_lr(), rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_runs_or_is_a_command_or_is_made(page):
    assert {fence.language for fence in fences(written(read(page)))} <= {"python", "pycon", "diff", "sh"}


def test_there_are_scripts_to_run():
    assert len(with_scripts(gpu=False)) >= 10 and len(with_scripts(gpu=True)) == 2


def test_a_wrong_doctest_is_noticed():
    with pytest.raises(AssertionError, match="Expected"):
        run_doctest(">>> 1 + 1\n3\n", {}, "x")


# Commands, names, files, links


def commands():
    return [
        (page, line) for page in PAGES for f in fences(read(page)) if f.language == "sh" for line in f.text.splitlines()
    ]


def test_commands_and_make_targets_exist():
    text = "\n".join(line for _, line in commands()) + "".join(
        f"\n{t}" for p in PAGES for t in re.findall(r"`([^`\n]+)`", read(p))
    )
    makefile = read("Makefile")
    targets = set(re.findall(r"^make ([\w-]+)", text, re.M))
    assert len(targets) >= 4 and all(re.search(rf"^{target}\b.*:", makefile, re.M) for target in targets)
    named = set(re.findall(r"^python -m fusedsched ([\w-]+)", text, re.M)) - {"COMMAND"}
    assert named == set(cli.COMMANDS)


def resolves(name):
    """Whether `fs.AdamW`, `schedules.join` or `torch.amp.GradScaler` exists."""
    first, *rest = name.split(".")
    value = {"fs": fs, "fusedsched": fs, "S": fs.schedules, "schedules": fs.schedules, "torch": torch}[first]
    for part in rest:
        if not hasattr(value, part):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{value.__name__}.{part}")
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_library_exist(page):
    names = set(re.findall(r"`((?:fs|fusedsched|S|schedules|torch)\.[\w.]+)", read(page)))
    assert [name for name in names if not resolves(name)] == []


def test_names_that_do_not_exist_are_noticed():
    assert resolves("fs.AdamW") and resolves("torch.amp.GradScaler") and not resolves("fs.AdamX")


@pytest.mark.parametrize("page", PLAIN)
def test_files_that_a_page_names_exist(page):
    assert [name for name in files(read(page)) if not (ROOT / name).exists()] == []


def unknown_names(text):
    """Names of classes and functions in a page that no source has; those "in" a file have to be in that file."""
    folders = [ROOT / name for name in ("csrc", "fusedsched", "triton_kernels", "tests")]
    paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in {".py", ".h", ".cpp", ".cu", ".cuh"}]
    words = set(re.findall(r"\w+", "".join(path.read_text() for path in paths)))
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(r"\w+((\.|::)\w+)*", span)]
    found = {name for span in spans for name in re.findall(r"\w+", span) if name not in words}
    for span, file in re.findall(rf"`([\w:.]+)` in\s+`((?:{FOLDERS})/[\w./]+)`", text):
        last = re.split(r"\W+", span)[-1]
        if last not in re.findall(r"\w+", (ROOT / file).read_text()):
            found.add(f"{span} in {file}")
    return found


def test_names_in_the_design_are_in_the_code():
    text = read("docs/design.md")
    assert unknown_names(text) == set() and len(re.findall(r"` in\s+`", text)) >= 20
    wrong = "`Plan::in" + "vented`, `edited` in `csrc/core/sgd.h`, `edited` in `csrc/core/edit.h`"
    assert unknown_names(wrong) == {"in" + "vented", "edited in csrc/core/sgd.h"}


def broken(page, text):
    folder, found = (ROOT / page).parent, []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PLAIN)
def test_links_resolve(page):
    assert broken(page, read(page)) == []


def test_broken_links_are_noticed():
    text = "[a](docs/nothing.md) [b](docs/index.md#nothing) [c](docs/index.md#use) [d](https://x.y)"
    assert broken("README.md", text) == ["docs/nothing.md", "docs/index.md#nothing"]


def test_the_index_has_every_page_and_the_readme_too():
    listed = re.findall(r"^(\d+)\. \[[^]]+\]\(([\w-]+\.md)\)", read("docs/index.md"), re.M)
    names = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    assert {name for _, name in listed} == names - {"index.md", "quickstart.md"}
    assert {f"docs/{name}" for name in names} <= {target.split("#")[0] for target in links(read("README.md"))}


# Figures


@pytest.mark.parametrize(("command", "shown"), TABLES)
def test_a_table_of_figures_is_what_the_script_prints(command, shown):
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown.strip() == done.stdout.strip()


def test_there_are_times_and_counts():
    assert "gates passed" in TABLES[0][1] and "recompilations" in TABLES[1][1] and len(TABLES) == 2


# Words


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


# What earlier versions of this project called things -> what the field calls them.
HOUSE_WORDS = {
    r"boards?": "metric state",
    r"tracks?": "driver, fast path",
    r"(whose|its|their) turn": "the active member",
    r"followers?|followed": "driver, subscriber",
    r"stands?|standing|stood|stand-ins?": "is",
    r"carr(y|ies|ied|ying)": "continue, keep, have",
    r"kicks?": "gain",
    r"origins?|anchors?": "base, start",
    r"cells?": "watched value",
    r"rooms?": "buffer",
    r"tells?|told|telling": "say, report, implementation",
    r"looks? away|looking away": "is suspended, is not counted",
    r"hosted|apart|seated|leaf|leaves behind": "on the host, detached, placeholder",
    r"settles?|settled|takes? over|brings? along|dissolves?|admits?|adopts?": "sync, load, add",
    r"troubles?": "known issue",
    r"mends?|mended|mending": "fix",
    r"laws?": "property",
    r"goes on|go on|going on|went on|carries on": "continue",
    r"some(body|one)|nobody|whosever|manieth|therein|in the place of": "name the subject",
    r"house": "project",
}


HOUSE_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(HOUSE_WORDS)})(?![\w-])", re.I)


def house_words(text):
    return [match[0] for match in HOUSE_WORD.finditer(prose(text))]


@pytest.mark.parametrize("page", PLAIN)
def test_the_words_are_those_of_the_field(page):
    assert house_words(read(page)) == []


def test_house_words_are_noticed():
    assert house_words("Nobody tells the board `board`.") == ["Nobody", "tells", "board"]
    assert house_words("```sh\nboard\n```\nThe driver reads the state.") == []
