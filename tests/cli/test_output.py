"""Tables, templates and words for ages and sizes."""

from __future__ import annotations

import time

import pytest

from swarmpy.cli.output import age, print_rows, size_text

ROWS = [{"ID": "abc", "Name": "web", "DesiredState": "Running"}, {"ID": "d", "Name": "longer", "DesiredState": ""}]


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, ["ID", "NAME", "DESIRED STATE"])
    assert capsys.readouterr().out == (
        "ID    NAME     DESIRED STATE\n"
        "abc   web      Running\n"
        "d     longer\n"
    )


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("json", '{"ID": "abc", "Name": "web", "DesiredState": "Running"}'),
        ("{{.Name}}={{ .ID }}", "web=abc"),
        ("{{json .Name}}", '"web"'),
        ("table {{.ID}}\\t{{.DesiredState}}", "ID    DESIRED STATE"),
    ],
)
def test_templates(template: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, ["ID"], template)
    assert capsys.readouterr().out.splitlines()[0] == first


def test_a_template_that_is_not_understood_says_so() -> None:
    with pytest.raises(ValueError, match="there is no field 'Colour'"):
        print_rows(ROWS, ["ID"], "{{.Colour}}")
    with pytest.raises(ValueError, match=r"only \{\{\.Field\}\}"):
        print_rows(ROWS, ["ID"], "{{range .Ports}}x{{end}}")


def test_ages_and_sizes() -> None:
    now = int(time.time())
    assert age(now - 3600 * 3) == "3 hours"
    assert age(now - 61) == "1 minute"
    assert age("2001-01-01T00:00:00.123456789Z").endswith("years")
    assert size_text(4_430_000) == "4.43MB"
    assert size_text(999) == "999B"
