# SPDX-License-Identifier: Apache-2.0
"""The command line: help that lists everything, exit codes, and an `info` that tells the truth."""

import json
import re

import pytest
import torch

import fusedsched as fs
from fusedsched import _native, cli, info

needs_extension = pytest.mark.skipif(_native.module() is None, reason=f"no extension: {_native.reason()}")


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert re.match(rf"usage: (python -m )?fusedsched {name} ", capsys.readouterr().out)


@pytest.mark.parametrize("argv", [[], ["walk"], ["info", "--loud"], ["demo", "--steps", "many"]])
def test_what_is_not_understood_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    assert "usage:" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fusedsched {fs.__version__}\n"


def test_info_prints_versions_and_backends(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", printed, re.M)
    assert re.search(r"^  reference +works$", printed, re.M)


def test_info_as_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == [] and facts["fusedsched"] == fs.__version__


@needs_extension
@pytest.mark.parametrize("threads", [1, 2])
def test_parallel_code_in_the_extension_runs_on_all_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert _native.module().threads_used() == threads
    finally:
        torch.set_num_threads(before)


@needs_extension
def test_there_is_one_openmp_runtime():
    _native.module().threads_used()
    assert len(info.openmp_runtimes()) == 1


def test_info_notices_idle_threads_and_a_second_openmp():
    facts = {"extension": {"threads used": 1}, "torch threads": 2, "openmp": ["/a/libgomp.so.1", "/b/libiomp5.so"]}
    assert len(info.warnings_of(facts)) == 2
