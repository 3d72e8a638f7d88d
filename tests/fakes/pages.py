"""A board's page as its script reads it."""

from __future__ import annotations

import json
import re


def data_of(page):
    """The JSON in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def column_of(data, key):
    """One column of its rows: the four forms that ``page_data.py`` writes, and the inverse of another."""
    column = data["values"][key]
    if "all" in column:
        return [column["all"]] * data["rows"]
    if "words" in column:
        return [column["words"][place] for place in column["at"]]
    if "inverse" in column:
        return [value and 1 / value for value in column_of(data, column["inverse"])]
    if "rows" not in column:
        return column["values"]
    known = dict(zip(column["rows"], column["values"], strict=True))
    return [known.get(row) for row in range(data["rows"])]


def rows_of(page):
    """The rows of a page, in its order."""
    data = data_of(page)
    columns = {key: column_of(data, key) for key in data["values"]}
    return [{key: values[row] for key, values in columns.items()} for row in range(data["rows"])]
