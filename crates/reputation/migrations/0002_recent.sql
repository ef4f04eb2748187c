-- The last uses, counted a second time: they lower the score of a provider that turned.
ALTER TABLE experience ADD COLUMN recent_good REAL NOT NULL DEFAULT 0;
ALTER TABLE experience ADD COLUMN recent_bad REAL NOT NULL DEFAULT 0;
