"""Which ids there were, however many, in bounded memory."""

import sqlite3


class SeenIds:
    """A temporary database that SQLite keeps in a few MiB of memory and, beyond, in a file that
    nobody else sees and that goes with it."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(
            "CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID"
        )

    def add(self, custom_id: str, line: int) -> int | None:
        """Remember that this line has the id → the earlier line that has it, which stays."""
        earlier = self._line_of(custom_id)
        if earlier is None:
            self._database.execute("INSERT INTO seen VALUES (?, ?)", (custom_id, line))
        return earlier

    def __contains__(self, custom_id: str) -> bool:
        return self._line_of(custom_id) is not None

    def close(self) -> None:
        self._database.close()

    def _line_of(self, custom_id: str) -> int | None:
        found = self._database.execute("SELECT line FROM seen WHERE id = ?", (custom_id,))
        row = found.fetchone()
        return row and int(row[0])
