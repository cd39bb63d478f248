"""Tasks on many workers, which end with whoever gave them: processes of this machine are here."""
