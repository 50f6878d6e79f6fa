"""What the README tells users to type exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from vertinst.cli import app

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text("utf-8") if README.is_file() else ""
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^vertinst (.+)$", BLOCKS, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_the_options_shown(line):
    name, *arguments = shlex.split(line)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_every_command_and_every_picture_is_there():
    assert len(COMMANDS) >= 6
    for name in typer.main.get_command(app).commands:
        assert re.search(rf"`{name}`|vertinst {name}", TEXT), name
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    for picture in pictures:
        assert (README.parent / picture).is_file(), picture


def test_the_commands_that_set_up_stand_alone():
    for block in re.findall(r"```\n(python3 -m venv .*?)\n```", TEXT):
        assert "\n" not in block
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install")
