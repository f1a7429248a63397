"""`phi3v batch`: OpenAI's batch files, line by line through a server.

lines.py            a line of the input → a request, or what is wrong with it
seen_ids.py         which custom_ids were seen, in bounded memory
batch_input.py      the input's lines, one by one; which of them are answered already
local_pictures.py   pictures beside the batch file → data URLs
sender.py           a request → the server's answer, tried again where that helps
results.py          an answer, or an error → a line of the output
result_file.py      the output: repaired, gone on with, appended to
line_reader.py      the next line of the input, also of a pipe
batch_run.py        so many lines at once, until the end or a signal
own_server.py       a server for this batch alone
whole_batch.py      all of it, from file to file
command.py          the command line; progress.py: what it shows meanwhile

The lines, the sender and the results know of no file: they serve wherever such lines come from.
"""
