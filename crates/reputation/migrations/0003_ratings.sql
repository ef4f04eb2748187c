-- Ratings of others, verified: one for each stream, which its nullifier names without saying which it is.
CREATE TABLE rating (
    nullifier BLOB    NOT NULL PRIMARY KEY,
    provider  TEXT    NOT NULL,
    service   TEXT    NOT NULL,
    score     REAL    NOT NULL,
    -- Exponent of the power of two that was paid at least.
    tier      INTEGER NOT NULL,
    slot_end  INTEGER NOT NULL,
    made_at   INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    digest    BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX rating_by_subject ON rating (provider, service, tier, slot_end);
CREATE INDEX rating_by_worth ON rating (tier, slot_end);

-- Who a provider's signed offers named as payee.
CREATE TABLE payee (
    provider TEXT    NOT NULL,
    payee    BLOB    NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (provider, payee)
) STRICT, WITHOUT ROWID;
CREATE INDEX payee_by_time ON payee (seen_at);
