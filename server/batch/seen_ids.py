"""Which ids there were, however many, in bounded memory."""

import sqlite3


class SeenIds:
    """A temporary database that SQLite keeps in a few MiB of memory and, beyond, in a file that
    nobody else sees and that goes with it."""

    def __init__(self) -> None:
        # Of one thread at a time, but not always of the one that made it: see line_reader.py.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute(
            "CREATE TABLE seen (id TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID"
        )

    def add(self, custom_id: str, place: str) -> str | None:
        """Remember where the id stands → the earlier place where it does, which stays."""
        earlier = self._place_of(custom_id)
        if earlier is None:
            self._database.execute("INSERT INTO seen VALUES (?, ?)", (custom_id, place))
        return earlier

    def __contains__(self, custom_id: str) -> bool:
        return self._place_of(custom_id) is not None

    def close(self) -> None:
        self._database.close()

    def _place_of(self, custom_id: str) -> str | None:
        found = self._database.execute("SELECT place FROM seen WHERE id = ?", (custom_id,))
        row = found.fetchone()
        return row and str(row[0])
