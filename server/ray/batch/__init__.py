"""`phi3v batch --cluster ray`: lines of many files through servers on many machines, by Ray Data.

source.py    files, local or at a URL; JSONL or Parquet → lines, from any place on
parquet_rows.py  rows of Parquet files, from any place on
blocks.py    lines → blocks of at most 64, with what is known of them already
work.py      all that is to be asked, and how many blocks of it a worker has at once
attempts.py  how often each block and line was begun, and not ended
worker.py    keeps a server; a block → its answers
parts.py     the output: a file for each block's answers, one for its failures
whole_batch.py  all of it

Only a block's description travels: workers read the lines, and write the answers, themselves.
"""
