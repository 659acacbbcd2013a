"""Readers of files: time series, words and tags, tables, sounds, piano rolls, stories, and pairs.

A reader returns exactly what is in the file; anything else is an error that names the file and the line. What a format
or an option leaves out is logged to "fastrnn" at level INFO; what a reader decides to leave out itself is a warning.
Text may have any encoding (`encoding=`, by default UTF-8). Pickles are never read.
"""

from fastrnn.data._captions import read_captions
from fastrnn.data._pairs import read_dictionary, read_pairs, read_parallel
from fastrnn.data._series import read_arff, read_series, read_ts, read_tsv
from fastrnn.data._sounds import LOWEST, NOTES, log_mel, read_rolls, read_wav
from fastrnn.data._tables import Table, read_csv, read_table
from fastrnn.data._words import read_babi, read_conllu

__all__ = [
    "LOWEST",
    "NOTES",
    "Table",
    "log_mel",
    "read_arff",
    "read_babi",
    "read_captions",
    "read_conllu",
    "read_csv",
    "read_dictionary",
    "read_pairs",
    "read_parallel",
    "read_rolls",
    "read_series",
    "read_table",
    "read_ts",
    "read_tsv",
    "read_wav",
]
