-- Pseudo-counts of a Beta distribution for each provider and service, decayed to `updated_at`.
CREATE TABLE experience (
    provider       TEXT    NOT NULL,
    service        TEXT    NOT NULL,
    good           REAL    NOT NULL,
    bad            REAL    NOT NULL,
    latency_sum    REAL    NOT NULL,
    latency_weight REAL    NOT NULL,
    assessments    INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    PRIMARY KEY (provider, service)
) STRICT;

-- The last assessments of each provider and service, so that a score can be explained and none counts twice.
CREATE TABLE assessment (
    id       TEXT    NOT NULL PRIMARY KEY,
    provider TEXT    NOT NULL,
    service  TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    content  TEXT    NOT NULL
) STRICT;
CREATE INDEX assessment_by_subject ON assessment (provider, service, at);

-- Proven misbehaviour.
CREATE TABLE fault (
    provider TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    digest   TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    evidence BLOB    NOT NULL,
    PRIMARY KEY (provider, digest)
) STRICT;
CREATE INDEX fault_by_time ON fault (at);
