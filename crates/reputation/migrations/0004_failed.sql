-- Weight of the uses that failed. Who is known from before starts with none.
ALTER TABLE experience ADD COLUMN failed REAL NOT NULL DEFAULT 0;
