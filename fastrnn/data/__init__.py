"""Readers of files: time series, words and tags, tables, sounds, piano rolls, stories, and pairs.

What a reader returns is what the file has. What is wrong is an error that names the file and the line. What a format or
an option leaves out is reported to the logger "fastrnn" (level INFO); what a reader leaves out by its own judgement is
a warning. All text may be in any encoding (`encoding=`, UTF-8 if not given). Pickles are never read.
"""

from fastrnn.data._pairs import read_captions, read_dictionary, read_pairs, read_parallel
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
