from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.evaluation.table import parse_table, read_table

HEAD = "row_id,board,device,model,task,latency_ms,prompt_tokens,extra\n"


def test_cells_become_texts_and_numbers_and_empty_ones_none():
    (row,) = parse_table(HEAD + "7, Big ,gpu,m,t,1.5,0,x\n", "t.csv")
    assert (row.row_id, row.board, row.latency_ms, row.prompt_tokens) == ("7", "Big", 1.5, 0.0)
    assert row.power_w is None
    assert row.tier == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv:1: the file is empty"),
        ("row_id,board\n1,2\n", "t.csv:1: device: this column is missing"),
        ("row_id,board,device,model,task,task\n", "t.csv:1: task: this column appears twice"),
        (HEAD, "t.csv:1: the table has no rows"),
        (HEAD + "1,b,d,m,t,2,,x\n2,b,d,m,t,fast,,x\n", "t.csv:3: latency_ms: 'fast' is not a number"),
        (HEAD + "1,b,d,m,t,-2,,x\n", "t.csv:2: latency_ms: -2 is out of range"),
        (HEAD + "1,b,d,m,t,nan,,x\n", "t.csv:2: latency_ms: 'nan' is not a number"),
        (HEAD + "1,b,d,m,t,0,,x\n", "t.csv:2: latency_ms: 0 is out of range"),
        (HEAD + "1,b,d,m,t,1e300,,x\n", "t.csv:2: latency_ms: 1e300 is out of range"),
        (HEAD + "1,b,d,m\n", "t.csv:2: 4 cells, but the header names 8 columns"),
        (HEAD + ",b,d,m,t,1,,x\n", "t.csv:2: row_id: is empty"),
        (HEAD + "1,b,d,m,t,1,,x\n1,b,d,m,t,1,,x\n", "row_id: 1 appears twice"),
        (HEAD + '1,"b"x,d,m,t,1,,x\n', "t.csv:2: not valid CSV"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_column(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_table(text, "t.csv")
    assert message in caught.value.message


def test_a_file_that_is_not_there_not_text_or_too_large_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"row_id\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_table(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text(HEAD + "1,b,d,m,t,1,,x\n")
    assert len(read_table(tmp_path / "c.csv")) == 1
    monkeypatch.setattr("agent.evaluation.table.MAX_FILE_BYTES", 10)
    with pytest.raises(ConfigError, match="too large"):
        read_table(tmp_path / "c.csv")


@given(st.text(max_size=200))
def test_no_text_ends_in_anything_but_rows_or_a_sentence(text):
    try:
        outcome = f"t.csv:{len(parse_table(HEAD + text, 't.csv'))}"
    except ConfigError as error:
        outcome = error.message
    assert outcome.startswith("t.csv:")
