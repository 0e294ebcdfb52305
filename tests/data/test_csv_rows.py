"""CSV files: every cell has a column and every column a cell, or the line and the column are named."""

import pytest

from nlsr_jax.data.rows import file_rows, read_rows
from nlsr_jax.errors import InputError

COLUMNS = ("prompt", "response")
ROWS = [{"prompt": "a, b", "response": "c"}, {"prompt": "d", "response": "e\nf"}]


def save(folder, text):
    path = folder / "rows.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prompt,response\nhow to make tea,first boil water, then wait\n",
            r"line 2: column 3 has no name: the row has 3 cells, the header 2 columns \(prompt, response\); put",
        ),
        ('prompt,response\n"a\nb",c\n\nd,e,\n', r"line 5: column 3 has no name"),
        ("prompt;response\na;b;c\n", r"line 2: column 3 has no name"),
        ("prompt,response,\na,b, then c\n", r"line 2: column 3 has text but no name"),
        ("prompt,,response\na,x,b\n", r"line 2: column 2 has text but no name"),
        ("id,prompt,response\n1,a\n", r"line 2: 'response' is missing: the row has 2 cells, the header 3 columns"),
        (
            "prompt,response,response\na,first,second\n",
            r"line 1 has .* 'response' twice \(columns 2 and 3\)",
        ),
        ("prompt,response, response \na,b,c\n", r"line 1 has the column 'response' twice"),
        ("\ufeffprompt,response,prompt\na,b,c\n", r"line 1 has the column 'prompt' twice \(columns 1 and 3\)"),
        (
            "prompt;response|x\na;b|c\n",
            r"line 1 has semicolons and vertical bars; separate the columns with commas",
        ),
        ("Prompt;Response\na;b\n", r"line 2: 'prompt' is missing; .*; found the columns Prompt, Response$"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_rows(str(save(tmp_path, text)), COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        'prompt,response\n"a, b",c\nd,"e\nf"\n',
        'prompt, response\r\n"a, b",c\r\n\r\n  \r\nd,"e\nf"',
        '\ufeff\u200bprompt,response,\n"a, b",c,\nd,"e\nf",\n',
        ',prompt,response,,\n0,"a, b",c,,\n1,d,"e\nf",,\n',
        'prompt;response\na, b;c\nd;"e\nf"\n',
        'prompt\tresponse\na, b\tc\nd\t"e\nf"\n',
        'prompt|response\na, b|c\nd|"e\nf"\n',
        'response,id,"prompt"\nc,1,"a, b"\n"e\nf",2,d\n',
    ],
    ids=["plain", "crlf", "trailing", "index", "semicolons", "tabs", "bars", "order"],
)
def test_what_is_whole_is_read(tmp_path, text):
    assert read_rows(str(save(tmp_path, text)), COLUMNS) == ROWS


def test_another_separator_is_said(tmp_path):
    notes = []
    list(file_rows(save(tmp_path, "prompt;response\na;b\n"), notes.append))
    assert notes == [f"{tmp_path}/rows.csv: columns are separated by semicolons"]
    list(file_rows(save(tmp_path, '"prompt;x",response\na,b\n'), notes.append))
    assert len(notes) == 1


def test_quotes_behind_a_space_are_said_to_be_text(tmp_path):
    notes = []
    path = save(tmp_path, 'prompt,response\nq,a\nq, "a b"\nq, "a"\n')
    assert [row["response"] for _, row in file_rows(path, notes.append)] == ["a", ' "a b"', ' "a"']
    assert notes == [f"{path}: line 3: 'response' begins with a space, so its quotes are kept as part of the text"]
